"""The command line: what it prints, and what it says to bad input. Never a traceback, always exit code 2."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from haversack import __version__, cli, interrupt
from haversack.cli import main, terminal
from haversack.coded import container
from haversack.errors import HaversackError, TaskError
from haversack.limits import LIMITS
from haversack.result import Result

TASK = Path(__file__).parent / "tasks" / "digits_small.py"
Run = Callable[..., tuple[int, str, str]]

GOOD = """
import torch
from torch import nn
from haversack import Task

def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))

inputs = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))

def task():
    return Task(
        train=lambda: [(inputs, torch.zeros(20, dtype=torch.long))],
        calibrate=lambda: [inputs],
        score=lambda predict: predict(inputs).mean().item(),
    )
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture
def task_file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "task.py"
        path.write_text(text)
        return path

    return write


def test_weigh_counts_what_torch_counts(run: Run) -> None:
    code, out, _ = run("weigh", TASK, "--device", "stm32f405", "--json")
    found = json.loads(out)
    assert code == 0
    # 3x3 convolutions to 8x8x16, 4x4x32, 2x2x32; batch norms; a linear layer of 128 x 10.
    assert found["macs"] == 9 * (64 * 16 + 16 * 16 * 32 + 4 * 32 * 32) + 1280
    assert found["parameters"] == 9 * (16 + 16 * 32 + 32 * 32) + 2 * (16 + 32 + 32) + 1290
    assert found["weighings"]["int8"]["flash_bytes"]["origin"] == "estimated"


def test_weigh_names_the_limit_that_fails_and_by_how_much(run: Run) -> None:
    code, out, _ = run("weigh", TASK, "--device", "stm32f405", "--flash", "10kB")
    assert code == 0
    assert "int8: flash: 18.2 kB of 10.0 kB, misses by 8.2 kB" in out


@pytest.mark.parametrize(
    ("command", "judged"),
    [("pack", {"counts", "file", "samples"}), ("advise", {"counts", "file", "samples"}), ("weigh", {"counts"})],
)
def test_a_command_asks_for_each_limit_that_it_can_judge(run: Run, command: str, judged: set[str]) -> None:
    code, out, _ = run(command, "--help")
    options = {limit.option for limit in LIMITS}
    assert code == 0
    assert {each for each in options if f"--{each} " in out} == {
        limit.option for limit in LIMITS if limit.judged_by in judged
    }


def test_advise_ranks_all_five_families_and_quickly_predicts_nothing(run: Run) -> None:
    code, out, said = run("advise", TASK, "--device", "nrf52840", "--flash", "10kB", "--json", "--quick")
    assert code == 0
    assert not said
    found = {each["family"]: each for each in json.loads(out)}
    assert {"pruning", "quantization", "distillation"} <= found.keys()
    assert not any(each["predicted"] for each in found.values())


def test_advise_takes_a_drop_and_ends_each_way_with_the_command_that_tries_it(run: Run) -> None:
    words = ("--device", "nrf52840", "--flash", "10kB", "--max-drop", "1%")
    code, out, _ = run("advise", TASK, *words, "--json")
    assert code == 0
    told = json.loads(out)
    assert told[0]["predicted"]["figures"]["flash_bytes"] < 10_000
    for each in told:
        _, pack, *given = shlex.split(each["command"])
        assert given[: len(words) + 1] == [str(TASK), *words]
        # An option that pack does not know is refused before the file is looked for.
        code, _, said = run(pack, "no_such_task.py", *given[1:])
        assert "no such file" in said, said


def test_devices_are_listed_and_shown_with_sources(run: Run) -> None:
    code, out, _ = run("devices", "list")
    assert code == 0
    assert "raspberry-pi-zero-2w" in out
    code, out, _ = run("devices", "show", "stm32f405")
    assert code == 0
    assert "1.0 MB" in out
    assert "runtime: tflite-micro (.tflite files; C source" in out
    assert "http" in out or "DS" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "toaster"], "unknown device 'toaster'"),
        (["--device", "a" * 300], "unknown device 'aaa"),
        (["--device", "missing.toml"], "cannot be read"),
        (["--flash", "90"], "--flash: '90'"),
        (["--flash", "90parsecs"], "--flash"),
        (["--latency", "-5ms"], "--latency"),
        (["--ram", "0kB"], "--ram"),
        (["--latency", "fast"], "--latency"),
    ],
)
def test_a_bad_limit_or_device_is_named(run: Run, options: list[str], said: str) -> None:
    code, out, err = run("weigh", TASK, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("def network", "def net"), "no function network()"),
        (("def task", "def job"), "no function task()"),
        (("import torch\n", "import torch\n1 / 0\n"), "ZeroDivisionError"),
        (("import torch\n", "import torch\nthis is (not python\n"), "SyntaxError"),
        (("import torch\n", "import torch\nraise SystemExit(3)\n"), "SystemExit"),
        (("return nn.Sequential", "return 3\n    nn.Sequential"), "not a torch.nn.Module"),
        (("nn.Linear(144, 3)", "nn.Linear(99, 3)"), "does not take calibrate()'s inputs"),
        (("lambda: [inputs]", "lambda: []"), "yielded nothing"),
        (("lambda: [inputs]", "lambda: [inputs / 0]"), "NaN or infinity"),
        (("lambda: [inputs]", "lambda: [inputs, inputs[:, :, :5]]"), "pad all inputs to one length"),
        (("lambda: [inputs]", "lambda: None"), "calibrate()"),
        (("nn.ReLU()", "nn.Threshold(1e9, 0.0)"), "same output"),
        (("nn.Flatten()", "nn.Flatten(), nn.Threshold(1e9, float('nan'))"), "NaN"),
        (("return Task(", "return dict("), "task() returned dict"),
        (("    return Task(", "    raise SystemExit\n    return Task("), "task() raised SystemExit"),
        (("    torch.manual", "    raise SystemExit(0)\n    torch.manual"), "network() raised SystemExit: 0"),
        (("lambda: [inputs]", "lambda: exit()"), "calibrate(): it raised SystemExit"),
        (("lambda: [inputs]", "lambda: inputs"), "one tensor, not batches"),
        (("lambda: [inputs]", "lambda: [inputs, inputs.half()]"), "float16 follows one with"),
        (("lambda: [inputs]", "lambda: [inputs.to_sparse()]"), "sparse"),
    ],
)
def test_a_bad_task_file_is_explained(
    run: Run, task_file: Callable[[str], Path], change: tuple[str, str], said: str
) -> None:
    path = task_file(GOOD.replace(*change))
    code, _, err = run("weigh", path)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("score", "said"),
    [
        ("float('nan')", "returned nan"),
        ("1 / 0", "ZeroDivisionError"),
        ("torch.rand(()).item()", "and then"),
        ("'good'", "score()"),
        ("exit(0)", "score() raised SystemExit: 0"),
    ],
)
def test_a_score_that_cannot_judge_is_refused(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path, score: str, said: str
) -> None:
    path = task_file(GOOD.replace("predict(inputs).mean().item()", score))
    code, _, err = run("pack", path, "--seconds", "0.1", "--out", tmp_path / "out")
    assert code == 2
    assert said in err
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_technique_of_each_try_is_looked_up(run: Run, task_file: Callable[[str], Path], tmp_path: Path) -> None:
    words = ["--try", "magic", "--try", "quantize_static", "--seconds", "0.1", "--out", tmp_path / "out"]
    code, _, err = run("pack", task_file(GOOD), *words)
    assert code == 2
    assert "magic" in err


def test_a_network_that_cannot_be_traced_names_the_layer(run: Run, task_file: Callable[[str], Path]) -> None:
    picky = "class Picky(nn.Module):\n    def forward(self, x):\n        return x if x.sum() > 0 else -x\n\ndef network"
    path = task_file(GOOD.replace("def network", picky, 1).replace("nn.ReLU()", "Picky()"))
    code, _, err = run("weigh", path)
    assert code == 2
    assert "layer 1" in err


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ("class Odd(nn.Module):\n    def forward(self, x):\n        raise SystemExit(0)", "SystemExit: 0 (line"),
        ("def Odd(depth=200):\n    return nn.Sequential(Odd(depth - 1)) if depth else nn.ReLU()", "more than 60 deep"),
        (
            "import threading\n\ndef Odd():\n    odd = nn.ReLU()\n    odd.lock = threading.Lock()\n    return odd",
            "cannot be copied: TypeError: cannot pickle",
        ),
    ],
    ids=["exits", "deep", "locked"],
)
def test_a_network_that_cannot_be_worked_with_is_refused(
    run: Run, task_file: Callable[[str], Path], layer: str, said: str
) -> None:
    path = task_file(GOOD.replace("nn.ReLU()", "Odd()").replace("def network", f"{layer}\n\ndef network", 1))
    code, _, err = run("weigh", path)
    assert code == 2
    assert said in err


def test_paths_mean_what_they_meant_before_the_task_changed_the_working_directory(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "else").mkdir()
    task_file(GOOD.replace("import torch\n", "import os\nimport torch\nos.chdir('else')\n", 1))
    monkeypatch.chdir(tmp_path)
    assert run("weigh", "task.py")[0] == 0
    monkeypatch.chdir(tmp_path)
    code, _, err = run("prove", "out", "task.py")
    assert code == 2
    assert f"{tmp_path / 'out'}: it holds no result" in err


def test_code_that_ends_python_ends_no_command_without_a_word() -> None:
    """Wherever it is called: in the middle of a training, say."""
    with pytest.raises(TaskError, match=r"sys\.exit\(0\)"):
        terminal.guarded(sys.exit)(0)


def test_an_error_of_ours_is_one_line_and_the_traceback_is_there_for_who_asks(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(words: list[str]) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(cli, "app", broken)
    code, out, err = run("weigh")
    assert (code, out) == (70, "")
    assert err.startswith("haversack: unexpected ValueError: two\n")
    assert "HAVERSACK_DEBUG=1" in err
    monkeypatch.setenv("HAVERSACK_DEBUG", "1")
    with pytest.raises(ValueError, match="two"):
        main([])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_torch_script_is_refused_by_name(run: Run, task_file: Callable[[str], Path]) -> None:
    scripted = "plain = network\n\ndef network():\n    return torch.jit.script(plain())\n\ndef task"
    code, _, err = run("weigh", task_file(GOOD.replace("def task", scripted)))
    assert code == 2
    assert "TorchScript" in err


@pytest.mark.parametrize("command", ["pack", "apply"])
def test_a_runtime_that_nothing_is_written_for_is_refused(run: Run, tmp_path: Path, command: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[step]]\ntechnique = "quantize_static"\n')
    words = [recipe, TASK] if command == "apply" else [TASK]
    code, _, err = run(command, *words, "--runtime", "abacus", "--out", tmp_path / "out")
    assert code == 2
    assert "abacus" in err
    assert "onnx, litert, tflite-micro" in err


def test_bench_of_a_tflite_file_names_the_extra_that_it_needs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    code, _, err = run("bench", path)
    assert code == 2
    assert "pip install 'haversack[litert]'" in err


def test_a_recipe_that_is_none_is_refused(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[step]]\ntechnique = "prune_channels"\nkeep = 7.0\n')
    code, _, err = run("apply", recipe, TASK, "--out", tmp_path / "out")
    assert code == 2
    assert "keep" in err
    code, _, err = run("apply", tmp_path / "none.toml", TASK)
    assert code == 2
    assert "none.toml" in err


def test_bench_refuses_what_is_no_onnx_file(run: Run, tmp_path: Path) -> None:
    for content in (b"", b"hello", bytes(1000)):
        (tmp_path / "model.onnx").write_bytes(content)
        code, _, err = run("bench", tmp_path / "model.onnx")
        assert code == 2
        assert "model.onnx" in err


def test_a_result_folder_that_is_a_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    code, _, err = run("pack", TASK, "--try", "quantize_static", "--out", tmp_path / "out")
    assert code == 2
    assert "out" in err


def test_a_toml_device_of_ones_own_works_by_path(run: Run, tmp_path: Path) -> None:
    import haversack

    shipped = Path(haversack.__file__).parent / "devices" / "raspberry-pi-4.toml"
    own = tmp_path / "mine.toml"
    shutil.copy(shipped, own)
    code, out, _ = run("devices", "show", own)
    assert code == 0
    assert "Raspberry Pi 4" in out


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no alarm here")
def test_an_interrupt_that_a_destructor_swallows_comes_again_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    class Swallows:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def work() -> None:
        with interrupt.interruptible():
            swallows = Swallows()
            del swallows
            time.sleep(5)

    monkeypatch.setattr(interrupt, "_AGAIN_S", 0.2)
    with pytest.raises(HaversackError, match="stopped"):
        work()


QUICKLY = ["--device", "raspberry-pi-4", "--try", "quantize_static", "--seconds", "0.1"]
STOPPING = (
    GOOD.replace("predict(inputs).mean().item()", "scored(predict)")
    + """
import os, signal
scores = []

def scored(predict):
    # Four of the original, to see whether a score can be trusted; whatever is packed has lost.
    scores.append(1.0 if len(scores) < 3 else 0.5)
    if len(scores) == AFTER:
        os.kill(os.getpid(), signal.SIGINT)
    return scores[-1]
"""
)


@pytest.mark.slow
def test_ctrl_c_leaves_the_best_so_far_as_a_whole_result(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [*QUICKLY, "--flash", "2.5kB", "--out", out]
    code, shown, err = run("pack", task_file(STOPPING.replace("AFTER", "6")), *words)
    assert code == 130
    assert "stopped: this is the best so far" in err
    assert "Stopped early: this is the best so far that meets every limit" in " ".join(shown.split())
    assert (out / "report.txt").read_text() in shown
    assert {"model.onnx", "recipe.toml", "network"} <= {each.name for each in out.iterdir()}


@pytest.mark.parametrize("after", [2, 4], ids=["of the original", "of a candidate"])
def test_ctrl_c_before_anything_meets_the_limits_ends_with_130_and_no_result(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path, after: int
) -> None:
    words = [*QUICKLY, "--flash", "2.5kB", "--out", tmp_path / "out"]
    code, _, err = run("pack", task_file(STOPPING.replace("AFTER", str(after))), *words)
    assert code == 130
    assert "repeat the command" in err
    assert not (tmp_path / "out" / "model.onnx").exists()


@pytest.mark.parametrize("after", [5, 6], ids=["before a row was built", "after one"])
def test_ctrl_c_ends_explore_with_130_and_no_word_of_what_was_not_tried(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path, after: int
) -> None:
    path = task_file(STOPPING.replace("AFTER", str(after)))
    words = [*QUICKLY[:2], "--try", "quantize_weights", *QUICKLY[4:], "--out", tmp_path / "out"]
    code, shown, err = run("explore", path, *words)
    assert code == 130
    assert ("this is the best so far" if after == 6 else "repeat the command") in err
    assert ("The frontier:" in shown) == (after == 6)
    assert "Nothing that was tried" not in shown
    assert [each.suffix for each in tmp_path.glob("out/workspace/*/*.frontier.json")] == [".json"] * (after == 6)


def test_a_folder_of_something_else_is_refused_before_any_work(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear reader")
    path = task_file(GOOD.replace("    torch.manual", "    1 / 0\n    torch.manual"))
    code, _, err = run("pack", path, "--flash", "2kB", "--out", tmp_path / "out")
    assert code == 2
    assert "it holds letter.txt, which is of no result of haversack" in err
    assert [each.name for each in (tmp_path / "out").iterdir() if each.name != "workspace"] == ["letter.txt"]


@pytest.mark.parametrize(
    ("network", "words", "says"),
    [
        ("", ["--ram", "9B"], "the network's inputs alone take 64 B of RAM, and 9 B are allowed"),
        ("nn.Flatten()", [], "no technique finds anything to do"),
        ("nn.Flatten()", ["--flash", "1B"], "no technique finds anything to do"),
    ],
)
def test_what_no_compression_could_reach_is_said_at_once(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path, network: str, words: list[str], says: str
) -> None:
    text = GOOD if not network else GOOD + f"\n\ndef network():\n    return {network}.eval()\n"
    common = ("--device", "stm32f405", "--seconds", "0.1", "--out", tmp_path / "out")
    code, _, err = run("pack", task_file(text), *common, *words)
    assert code == 2, err
    assert says in err
    assert "Traceback" not in err


def test_a_row_of_the_frontier_becomes_the_result_without_new_work(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path
) -> None:
    task, out = task_file(GOOD), tmp_path / "out"
    code, shown, err = run("explore", task, *QUICKLY, "--out", out)
    assert code == 0, err
    assert "The frontier:" in shown
    assert not (out / "model.onnx").exists()
    code, shown, err = run("pack", task, *QUICKLY[:2], *QUICKLY[4:], "--out", out, "--pick", "1")
    assert code == 0, err
    assert "applying" not in err
    assert "measuring" not in err
    assert shown.startswith("Row 1 of the frontier on Raspberry Pi 4")
    assert "picked" in shown
    told = json.loads((out / "measurement.json").read_text())
    assert told["packed"]["flash_bytes"]["value"] == (out / "model.onnx").stat().st_size
    assert told["frontier"][0]["recipe"] == (out / "recipe.toml").read_text()
    assert Result(out).measured.frontier[0].measurement is not None
    code, shown, err = run("pack", task, *QUICKLY[:2], *QUICKLY[4:], "--out", out, "--pick", "1", "--json")
    assert (code, err) == (0, "")
    assert json.loads(shown, parse_constant=pytest.fail)["frontier"][0]["measured"]
    wrong = ("pack", task, *QUICKLY[:2], "--out", out, "--pick")
    assert "no row 99" in run(*wrong, "99")[2]
    assert "--pick takes a row as it is" in run(*wrong, "1", "--flash", "1kB")[2]
    other = run(*wrong[:2], "--device", "host", *wrong[4:], "1")
    assert other[0] == 2
    assert "no frontier is kept" in other[2]


@pytest.mark.slow
def test_a_result_is_coded_beside_its_file_and_decoded_to_its_weights(
    run: Run, task_file: Callable[[str], Path], tmp_path: Path
) -> None:
    task, recipe, out = task_file(GOOD), tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text('[[step]]\ntechnique = "quantize_static"\nweight_bits = 4\n')
    assert run("apply", recipe, task, "--out", out, "--seconds", "0.1")[0] == 0
    coded = (out / "model.hsk").read_bytes()
    assert len(coded) < (out / "model.onnx").stat().st_size
    assert json.loads((out / "measurement.json").read_text())["packed"]["update_bytes"]["value"] == len(coded)
    code, shown, _ = run("decode", out / "model.hsk", "--out", tmp_path / "weights.npz")
    assert code == 0
    assert "4-bit integers" in shown
    with np.load(tmp_path / "weights.npz") as weights:
        assert {tuple(weights[name].shape) for name in weights} == {(4, 1, 3, 3), (4,), (3, 144), (3,)}
        assert max(len(np.unique(weights[name])) for name in weights if weights[name].ndim == 4) <= 16 * 4
    code, shown, _ = run("encode", out, task, "--out", tmp_path / "again.hsk", "--json")
    assert code == 0
    assert json.loads(shown)["bytes"] == len(coded)
    assert (tmp_path / "again.hsk").read_bytes() == coded


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no file of coded weights"),
        (b"HSC\x01\x00\x00", "damaged or cut off"),
        (b"PK\x03\x04", "no file of coded"),
    ],
)
def test_what_is_no_coded_file_is_refused_with_its_path(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "some.hsk"
    file.write_bytes(content)
    code, _, err = run("decode", file)
    assert code == 2
    assert str(file) in err
    assert says in err
    assert run("decode", tmp_path / "none.hsk")[0] == 2


@pytest.mark.parametrize("name", ["file", "allow_pickle", "self", "a/b.weight", "ü.npy", "weight"])
def test_a_tensor_may_be_called_anything_and_is_written_under_its_name(run: Run, tmp_path: Path, name: str) -> None:
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    (tmp_path / "some.hsk").write_bytes(container.write({name: container.stored(numbers)}))
    assert run("decode", tmp_path / "some.hsk", "--out", tmp_path / "weights.npz")[0] == 0
    with np.load(tmp_path / "weights.npz") as weights:
        assert list(weights) == [name]
        assert np.array_equal(weights[name], numbers)


def test_json_holds_nothing_that_other_readers_of_json_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    """Outputs that are no numbers, of a file that `prove` finds broken, say."""
    terminal.print_json({"off by": float("nan"), "files": ({"ratio": float("inf"), "bytes": 3},), "score": 0.5})
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert told == {"off by": None, "files": [{"ratio": None, "bytes": 3}], "score": 0.5}


def test_the_package_itself_is_the_command():
    found = subprocess.run([sys.executable, "-m", "haversack", "--version"], capture_output=True, text=True, check=True)
    assert found.stdout == f"haversack {__version__}\n"
