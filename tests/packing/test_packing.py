"""The whole job on real digits: what comes out was measured, and a killed run goes on where it was."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import torch
from torch import nn

import haversack
from haversack import errors, progress
from haversack.device import Device, find_device
from haversack.errors import BudgetError, InfeasibleError, NothingChangedError, RecipeError, WorkspaceError
from haversack.graph.cost import cost
from haversack.graph.run import named_tensors
from haversack.graph.trace import trace
from haversack.interrupt import interruptible
from haversack.limits import Budget
from haversack.measurement import Candidate, Figure, share_of
from haversack.model import Model
from haversack.packing import Bench, Packed, Settings, _below, apply, explore, gauge, pack, pick
from haversack.packing.candidates import read_recipe
from haversack.packing.frontier import keep_frontier
from haversack.plan.found import Found, Refusal, Trial
from haversack.plan.frontier import FrontierRow
from haversack.progress import shown_by
from haversack.recipe import Recipe, Stage, Step
from haversack.runtimes import Contents, host
from haversack.runtimes.estimate import weigh
from haversack.surgery.save import load
from haversack.task import Task, TaskFile, read_task_file
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.training.resume import checkpoint
from tests.heard import Heard

TASK = Path(__file__).parents[1] / "tasks" / "digits_small.py"
FLASH = 9_000
TWO = ("prune_channels", "quantize_static")
T = TypeVar("T")
PI4 = find_device("raspberry-pi-4")
EXACT = QuantizeStatic(find_device("host").weight_bits)
"""Integers that ONNX Runtime computes exactly on this host."""


@pytest.fixture(scope="module")
def file() -> TaskFile:
    return read_task_file(TASK)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed")


@pytest.fixture(scope="module")
def calls() -> list[str]:
    """Which of the task's two measures was asked, in order."""
    return []


@pytest.fixture(scope="module")
def packed(file: TaskFile, out: Path, calls: list[str]) -> Packed:
    def score(predict: Any) -> float:
        calls.append("score")
        return file.task.score(predict)

    def validate(predict: Any) -> float:
        calls.append("validate")
        return file.task.score(predict) / 2

    task = replace(file.task, score=score, validate=validate)
    budget = Budget(flash_bytes=FLASH, max_drop=0.03)
    settings = Settings(
        out=out, cache=out / "workspace", epochs=2, seconds=0.1, task_digest=file.digest, techniques=TWO
    )
    return pack(file.network, task, "host", budget, settings)


def test_what_validates_is_asked_when_all_is_decided_and_reported_apart(
    packed: Packed, out: Path, calls: list[str]
) -> None:
    assert calls[-2:] == ["validate"] * 2
    assert calls.count("validate") == 2
    written = json.loads((out / "measurement.json").read_text())
    for name in ("baseline", "packed"):
        assert written[name]["validated"]["value"] == written[name]["score"]["value"] / 2
        assert written[name]["validated"]["runtime"] == "onnx"
    assert "\nvalidated " in packed.report


def test_the_file_on_disk_meets_the_limits_it_was_packed_for(packed: Packed, out: Path, file: TaskFile) -> None:
    content = (out / "model.onnx").read_bytes()
    measured = packed.artifact.measurement
    assert len(content) == measured.flash_bytes.value <= FLASH
    assert measured.score is not None
    assert file.task.scored(host.load(content)) == measured.score.value
    assert packed.baseline.score is not None
    assert measured.score.value >= packed.baseline.score.value - 0.03


def test_both_steps_were_needed_and_are_in_the_recipe(packed: Packed, out: Path) -> None:
    names = [type(step).__name__ for step in packed.artifact.recipe.steps]
    assert names == ["PruneChannels", "QuantizeStatic"]
    assert read_recipe(out / "recipe.toml") == packed.artifact.recipe


def test_the_result_folder_tells_how_everything_was_measured(out: Path, packed: Packed) -> None:
    written = json.loads((out / "measurement.json").read_text())
    conditions = written["packed"]["conditions"]
    assert conditions["threads"] == 1
    assert conditions["versions"]["onnxruntime"]
    assert written["packed"]["flash_bytes"]["origin"] == "host"
    assert written["packed"]["latency_ms"]["low"] <= written["packed"]["latency_ms"]["value"]
    report = (out / "report.txt").read_text()
    assert report == packed.report
    assert "quantize_static" in report
    assert "kept    prune_channels" in report


def test_the_network_reloads_onto_a_fresh_one(packed: Packed, out: Path, file: TaskFile) -> None:
    model = load(file.fresh_network(), out / "network", packed.model.example)
    inputs = file.task.calibration()[0]
    with torch.no_grad():
        assert torch.equal(model.module(*inputs), packed.model.module(*inputs))
    assert dict(model.grids) == dict(packed.model.grids)


def _loss(module: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    inputs, target = batch
    return nn.functional.cross_entropy(module(inputs), target)


def test_the_reloaded_network_trains_on_as_the_original_does(packed: Packed, out: Path, file: TaskFile) -> None:
    batches = list(file.task.epoch())
    changes, jumps = [], []
    for module in (copy.deepcopy(file.network()), haversack.load(out, file.network)):
        before = file.task.scored(torch.no_grad()(module))
        in_use = float(torch.no_grad()(_loss)(module, batches[0]))
        jumps.append(float(torch.no_grad()(_loss)(module.train(), batches[0])) - in_use)
        optimizer = torch.optim.Adam(module.parameters(), 1e-4)
        for batch in batches:
            optimizer.zero_grad()
            _loss(module, batch).backward()
            optimizer.step()
        changes.append(file.task.scored(torch.no_grad()(module.eval())) - before)
    assert abs(jumps[1]) < abs(jumps[0]) + 0.02, "the first step works on other values"
    assert changes[1] > min(changes[0], 0) - 0.01
    assert changes[1] < 0.05


def test_no_file_of_the_result_holds_the_users_data(packed: Packed, out: Path, file: TaskFile) -> None:
    sample = file.task.calibration()[0][0][0].numpy().tobytes()
    files = [path for path in out.rglob("*") if path.is_file()]
    assert out / "network" / "network.pt2" in files
    assert [path.name for path in files if sample in path.read_bytes()] == []


def test_applying_the_recipe_again_gives_the_same_bytes(packed: Packed, file: TaskFile, out: Path) -> None:
    again = apply(read_recipe(out / "recipe.toml"), file.network, file.task, find_device("host"), Settings(seconds=0.1))
    assert again.artifact.files == packed.artifact.files


def test_a_device_that_takes_signed_activations_gets_them_and_the_very_file_is_timed(
    file: TaskFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[bytes] = []
    time_files = host.time_files

    def watched(files: Sequence[bytes], **settings: Any) -> tuple[host.Timing, ...]:
        timed.extend(files)
        return time_files(files, **settings)

    monkeypatch.setattr(host, "time_files", watched)
    step = next(iter(QuantizeStatic.options(Model(file.network(), file.task.calibration()[0]), PI4)))
    found = apply(Recipe((step,)), file.network(), file.task, PI4, Settings(seconds=0.1))
    activations = [grid for grid in found.model.grids.values() if grid.axis is None]
    assert all(grid.signed for grid in activations)
    content, measured = found.artifact.files["model.onnx"], found.artifact.measurement
    assert timed[-1] == content
    assert measured.latency_ms is not None
    assert measured.latency_ms.origin == "estimated"
    in_integers = host.contents(content, 1).integer_layers == 4
    assert (measured.latency_ratio is not None) == in_integers
    assert any("in float" in line for line in measured.notes) != in_integers


@pytest.mark.parametrize(
    ("device", "runtime", "told"),
    [("raspberry-pi-4", "onnx", True), ("raspberry-pi-4", "litert", False), ("host", "onnx", False)],
)
def test_a_ratio_that_this_host_cannot_judge_is_told_of_beforehand(
    monkeypatch: pytest.MonkeyPatch, device: str, runtime: str, *, told: bool
) -> None:
    x86 = replace(find_device("host"), isa="x86-64")
    monkeypatch.setattr(gauge, "find_device", lambda _: x86)
    heard: list[str] = []
    monkeypatch.setattr(gauge, "tell", heard.append)
    target = x86 if device == "host" else replace(find_device(device), runtime=runtime)
    gauge.tell_of_ratio(Budget(latency_ratio=0.45), target)
    assert bool(heard) == told
    gauge.tell_of_ratio(Budget(flash_bytes=1000), target)
    assert len(heard) == told


@pytest.mark.parametrize(
    ("score", "limits", "said"),
    [
        (92.5, {"max_drop": 0.01}, "it may fall by 0.01"),
        (-0.3, {"max_drop": 0.01, "score_at_least": 0.9}, "it may fall by 0.01 and may be 0.9 at the least"),
        (0.925, {"max_drop": 0.01}, ""),
        (92.5, {"flash_bytes": 1000}, ""),
    ],
)
def test_what_a_limit_means_for_a_score_that_is_no_share_is_told(
    monkeypatch: pytest.MonkeyPatch, score: float, limits: dict[str, float], said: str
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(gauge, "tell", heard.append)
    gauge.tell_of_score(Budget(**limits), Figure(score, "host"))
    assert [line.rpartition(": ")[2] for line in heard] == ([said] if said else [])


def test_a_ratio_of_this_host_says_nothing_of_integers_that_it_computes_in_float(
    file: TaskFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_float = Contents({}, {"Conv": 3}, 0, 0, 1000, ("the runtime still computes in float: 3 Conv.",))
    monkeypatch.setattr(host, "contents", lambda *_: in_float)
    recipe = Recipe((QuantizeStatic(),))
    far = apply(recipe, file.network(), file.task, PI4, Settings(seconds=0.1))
    assert far.artifact.measurement.latency_ratio is None
    assert "says nothing about raspberry-pi-4, and no limit is held against it" in " ".join(far.report.split())
    assert "the runtime still computes in float: 3 Conv." in far.artifact.measurement.to_json()["notes"]
    here = apply(Recipe((EXACT,)), file.network(), file.task, find_device("host"), Settings(seconds=0.1))
    assert here.artifact.measurement.latency_ratio is not None
    assert "the runtime still computes in float: 3 Conv." in here.report


@pytest.mark.slow
def test_an_impossible_limit_is_named_with_what_would_be_possible_and_that_is(file: TaskFile, tmp_path: Path) -> None:
    settings = Settings(out=tmp_path / "out", cache=tmp_path / "cache", epochs=1, seconds=0.1, techniques=TWO)
    with pytest.raises(InfeasibleError, match=r"misses flash: .* allowed 1.0 kB.*it would take a flash of") as caught:
        pack(file.network, file.task, "host", Budget(flash_bytes=1000), settings)
    report = (tmp_path / "out" / "report.txt").read_text()
    assert report.startswith("No candidate meets every limit on this machine")
    assert "misses by" in report
    assert not (tmp_path / "out" / "model.onnx").exists()
    enough = math.ceil(caught.value.relaxations["flash_bytes"])
    result = pack(file.network, file.task, "host", Budget(flash_bytes=enough), settings)
    assert result.artifact.flash_bytes <= enough


def test_an_older_result_stays_where_a_later_goal_is_impossible(packed: Packed, out: Path, file: TaskFile) -> None:
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    settings = Settings(
        out=out, cache=out / "workspace", seconds=0.1, task_digest=file.digest, techniques=("quantize_weights",)
    )
    with pytest.raises(InfeasibleError, match="misses flash"):
        pack(file.network, file.task, "host", Budget(flash_bytes=1000), settings)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert (out / "workspace" / "report.txt").read_text().startswith("No candidate meets every limit")


def test_a_row_that_was_only_predicted_is_built_when_it_is_picked_and_said_so_once(
    file: TaskFile, tmp_path: Path
) -> None:
    settings = Settings(cache=tmp_path, seconds=0.1)
    bench, recipe = _bench(file, tmp_path, ""), Recipe((QuantizeStatic(),))
    best = bench.candidate(Trial(Recipe()))
    predicted = FrontierRow(recipe, {"flash_bytes": 1.0, "score": 1.0})
    keep_frontier(bench.workspace, Found(best, (), (), frontier=(predicted,)), Budget())
    told = []
    for _ in range(2):
        heard = Heard()
        with shown_by(heard):
            picked = pick(1, file.network, file.task, find_device("host"), settings)
        told.append([line for line in heard.lines if "it is built and measured now" in line])
        assert picked.found.frontier[0].measurement is not None
        assert len(picked.artifact.files["model.onnx"]) == picked.artifact.flash_bytes > 1000
    assert [len(each) for each in told] == [1, 0]


def test_what_weigh_says_of_the_size_is_near_the_file(file: TaskFile, packed: Packed) -> None:
    device = find_device("host")
    needs = cost(trace(file.network(), packed.model.example))
    int8 = apply(Recipe((EXACT,)), file.network, file.task, device, Settings(seconds=0.1))
    for measured, number_format in ((packed.baseline, "float32"), (int8.artifact.measurement, "int8")):
        said = weigh(needs, device, number_format).flash_bytes.value
        assert said == pytest.approx(measured.flash_bytes.value, rel=0.1)


def test_the_public_face_stays_a_function_after_its_module_was_imported() -> None:
    assert haversack.pack is pack
    assert haversack.Settings is Settings
    assert {"Budget", "Settings", "Task", "load", "pack"} <= set(dir(haversack)) == set(haversack.__all__)


def test_a_network_for_torch_alone_lies_in_the_result(packed: Packed, out: Path, file: TaskFile) -> None:
    program = torch.export.load(out / "network" / "network.pt2")
    inputs = file.task.calibration()[0]
    with torch.no_grad():
        torch.testing.assert_close(program.module()(*inputs), packed.model.module(*inputs))


def test_a_reconstruction_task_is_packed_by_its_own_score() -> None:
    torch.manual_seed(0)
    samples = torch.randn(64, 8) @ torch.randn(8, 32)
    network = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    task = haversack.Task(
        train=lambda: [(samples,)] * 20,
        calibrate=lambda: [samples],
        score=lambda predict: -float((predict(samples) - samples).pow(2).mean()),
        kind="reconstruction",
    )
    found = haversack.pack(
        network, task, "host", Budget(flash_bytes=7_000), Settings(epochs=2, seconds=0.1, techniques=TWO)
    )
    assert found.artifact.flash_bytes <= 7_000
    assert found.artifact.measurement.parity is not None
    assert found.artifact.measurement.parity.argmax_agreement > 0.9


def _with_dead_channels(network: nn.Sequential) -> nn.Sequential:
    """The network with half of its second layer's filters faded to nothing."""
    faded = copy.deepcopy(network)
    with torch.no_grad():
        for values in (faded[3].weight, faded[4].weight, faded[4].bias):
            values[16:] = 0
    return faded


def test_dead_channels_go_first_where_they_are_tried_by_name(file: TaskFile) -> None:
    settings = Settings(seconds=0.1, techniques=("prune_dead_channels", "quantize_static"))
    result = pack(
        _with_dead_channels(file.network()), file.task, "raspberry-pi-4", Budget(flash_bytes=13_000), settings
    )
    assert [type(step).__name__ for step in result.artifact.recipe.steps] == ["PruneDeadChannels", "QuantizeStatic"]


def test_weights_in_fewer_bits_alone_are_packed_where_they_are_tried_by_name(file: TaskFile) -> None:
    budget, settings = Budget(flash_bytes=20_000), Settings(seconds=0.1, techniques=("quantize_weights",))
    result = pack(file.network, file.task, "raspberry-pi-4", budget, settings)
    assert [type(step).__name__ for step in result.artifact.recipe.steps] == ["QuantizeWeights"]
    assert result.artifact.flash_bytes <= 20_000


def test_a_frontier_on_which_nothing_is_but_the_network_is_refused(file: TaskFile, tmp_path: Path) -> None:
    """Zeros make nothing smaller or faster but a file that is sent, which nobody limits here."""
    settings = Settings(cache=tmp_path, seconds=0.05, techniques=("prune_weights",))
    with pytest.raises(NothingChangedError, match="nothing that was tried is smaller or faster"):
        explore(file.fresh_network(), file.task, find_device("host"), settings)


def test_an_unknown_technique_is_refused(file: TaskFile) -> None:
    with pytest.raises(RecipeError, match="choose from"):
        pack(file.network, file.task, "host", Budget(), Settings(techniques=("magic",)))


@dataclass(frozen=True)
class Interrupted(Step):
    """A step whose training is killed after its first checkpoint, and then finds where it was."""

    seed: int = 0

    stage: ClassVar[Stage] = Stage.RECOVER
    strength: ClassVar[str] = "seed"

    def apply(self, model: Model, task: Task) -> Model:
        written = checkpoint(named_tensors(model.module), self)
        assert written is not None
        found = written.read()
        if found is None:
            written.write({"place": torch.tensor([0, 3, 3])})
            raise KeyboardInterrupt
        assert found["place"].tolist() == [0, 3, 3]
        written.remove()
        return model

    @classmethod
    def options(cls, model: Model, device: Device) -> tuple[Interrupted, ...]:
        return ()


def _bench(file: TaskFile, folder: Path, digest: str, seconds: float = 0.1, device: str = "host") -> Bench:
    settings = Settings(task_digest=digest, seconds=seconds)
    return Bench.set_up(file.network, file.task, find_device(device), settings, folder)


def test_many_plans_are_built_below_an_answer_only_where_a_fall_is_allowed_and_the_network_is_cheap(
    file: TaskFile, tmp_path: Path
) -> None:
    bench = _bench(file, tmp_path, "")
    wide = nn.Sequential(nn.Conv2d(1, 400, 3), nn.Conv2d(400, 400, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    dear = replace(bench, original=replace(bench.original, module=wide))
    falls = Budget(flash_bytes=FLASH, max_drop=0.01)
    assert (_below(bench, falls), _below(bench, Budget(flash_bytes=FLASH)), _below(dear, falls)) == (12, 2, 2)


def test_a_killed_training_is_found_again_by_the_same_run_and_by_no_other(file: TaskFile, tmp_path: Path) -> None:
    recipe = Recipe((Interrupted(),))
    for digest in ("of these data", "of other data"):
        with pytest.raises(KeyboardInterrupt):
            _bench(file, tmp_path, digest).model(recipe)
    bench = _bench(file, tmp_path, "of these data")
    assert bench.workspace.unfinished.is_dir()
    assert bench.model(recipe).edits == bench.original.edits
    assert not bench.workspace.unfinished.exists()
    assert _bench(file, tmp_path, "of other data").workspace.unfinished.is_dir()


ATTEMPTS: list[str] = []


@dataclass(frozen=True)
class Failing(Step):
    """A step that fails with the error of that name."""

    error: str = ""

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "error"

    def apply(self, model: Model, task: Task) -> Model:
        ATTEMPTS.append(self.error)
        raise getattr(errors, self.error)("it went wrong.", mend="leave it out.")

    @classmethod
    def options(cls, model: Model, device: Device) -> tuple[Failing, ...]:
        return ()


ABOUT_ONE = "ParityError TrainingError TraceError MeasureError CodedError ExportError SurgeryError NothingChangedError"


@pytest.mark.parametrize("error", [*ABOUT_ONE.split(), "RecipeError"])
def test_an_error_of_one_candidate_is_a_refusal_of_that_candidate(file: TaskFile, tmp_path: Path, error: str) -> None:
    trial = Trial(Recipe((Failing(error),)))
    told = _bench(file, tmp_path, "").answer(trial)
    assert told == Refusal(trial.recipe, "it went wrong.")
    assert _bench(file, tmp_path, "").answer(trial) == told
    assert ATTEMPTS.count(error) == (2 if error == "MeasureError" else 1), "only a measurement is worth another try"


@dataclass(frozen=True)
class Deaf(Failing):
    """A step that makes an error of its own of an interrupt."""

    def apply(self, model: Model, task: Task) -> Model:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise errors.TraceError("it cannot be traced.") from None
        return model


def test_an_interrupt_that_a_library_calls_an_error_is_no_refusal(file: TaskFile, tmp_path: Path) -> None:
    bench = _bench(file, tmp_path, "")
    with pytest.raises(errors.StoppedError), interruptible():
        bench.answer(Trial(Recipe((Deaf(),))))
    assert not list(tmp_path.rglob("*refused*"))


@pytest.mark.parametrize("error", ["TaskError", "WorkspaceError"])
def test_an_error_of_the_task_or_the_disk_ends_the_run(file: TaskFile, tmp_path: Path, error: str) -> None:
    with pytest.raises(getattr(errors, error), match="it went wrong"):
        _bench(file, tmp_path, "").answer(Trial(Recipe((Failing(error),))))


def test_a_score_has_the_spread_of_as_many_samples_as_it_was_taken_of(packed: Packed) -> None:
    for found in (packed.baseline, packed.artifact.measurement):
        assert found.score is not None
        assert replace(found.score, runtime="") == share_of(
            597, found.score.value
        )  # of scikit-learn's 1797 digits, 1200 are for training


@pytest.mark.parametrize("device", ["rp2040", "esp32-s3"])
def test_a_limit_that_nobody_can_judge_is_refused_before_anything_is_measured(
    file: TaskFile, tmp_path: Path, device: str
) -> None:
    target = find_device(device)
    settings = Settings(cache=tmp_path, techniques=("prune_channels",))
    with pytest.raises(BudgetError, match=r"computes float32.*\n.*--latency 0.5x.*In int8 its time is known"):
        pack(file.network, file.task, target, Budget(latency_ms=1e-6, flash_bytes=30_000), settings)
    assert not list(tmp_path.rglob("measurement.json"))


@pytest.mark.slow
def test_a_float_network_is_never_fast_enough_for_a_device_that_states_no_rate_for_it(file: TaskFile) -> None:
    target = find_device("rp2040")
    settings = Settings(seconds=0.1, techniques=("quantize_weights", "quantize_static"))
    with pytest.raises(InfeasibleError, match=r"it would take a latency of [\d.]+ ms"):
        pack(file.network, file.task, target, Budget(latency_ms=1e-6, flash_bytes=30_000), settings)


def test_settings_that_give_the_same_file_are_measured_once_and_the_others_refused(
    file: TaskFile, tmp_path: Path
) -> None:
    bench = _bench(file, tmp_path, "", seconds=0.1, device="raspberry-pi-4")
    first = bench.answer(Trial(Recipe((EXACT,)), scored=False))
    again = bench.answer(Trial(Recipe((Idle(), EXACT)), scored=False))
    assert again == Refusal(again.recipe, f"its files are those of {first.recipe}, byte for byte.")
    scored = bench.answer(Trial(Recipe((Idle(), EXACT))))
    assert isinstance(scored, Candidate)
    assert scored.measurement.score is not None
    assert scored.measurement.latency_ms == first.measurement.latency_ms
    assert "the original's, byte for byte" in bench.answer(Trial(Recipe((Idle(1),)))).why


def test_whoever_packs_is_told_what_is_being_done_from_the_start(file: TaskFile, tmp_path: Path) -> None:
    heard: list[str] = []
    settings = Settings(cache=tmp_path, seconds=0.1, techniques=("prune_dead_channels",))
    with shown_by(Ear(heard)), pytest.raises(NothingChangedError):
        pack(file.network, file.task, "raspberry-pi-4", Budget(), settings)
    assert [line.partition(" ")[0] for line in heard[:3]] == ["building", "measuring", "looking"]


class Ear:
    """Hears what is said."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        return iter(items)

    def say(self, line: str) -> None:
        self._heard.append(line)


def test_packing_does_not_run_in_one_of_several_processes(file: TaskFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(WorkspaceError, match="one of 2"):
        pack(file.network, file.task, "host", Budget(), Settings())


@pytest.mark.parametrize(("device", "runtime"), [("raspberry-pi-4", "litert"), ("stm32h743", "")])
def test_a_device_that_runs_tflite_files_gets_one_that_was_scored_in_its_own_runtime_and_weighs_what_weigh_says(
    file: TaskFile, tmp_path: Path, device: str, runtime: str
) -> None:
    """A microcontroller needs no word: it runs tflite-micro."""
    pytest.importorskip("ai_edge_litert", reason="the extra `litert` is not installed")
    target = replace(find_device(device), runtime=runtime) if runtime else find_device(device)
    runtime = runtime or "tflite-micro"
    recipe = Recipe((QuantizeStatic(),))
    result = apply(recipe, file.network(), file.task, target, Settings(out=tmp_path, seconds=0.1))
    content, measured = (tmp_path / "model.tflite").read_bytes(), result.artifact.measurement
    assert content[4:8] == b"TFL3"
    assert len(content) == measured.flash_bytes.value < 0.4 * result.baseline.flash_bytes.value
    assert measured.conditions.runtime == result.artifact.runtime == runtime
    assert measured.parity is not None
    assert measured.parity.max_steps <= 1.001
    assert measured.score is not None
    assert file.task.scored(host.load(content, runtime=runtime)) == measured.score.value
    assert measured.score.runtime == runtime
    assert f"(host, {'LiteRT' if runtime == 'litert' else runtime}, " in result.report
    assert measured.latency_ratio is not None
    assert measured.latency_ratio.runtime == "litert"
    assert measured.fidelity is not None
    assert 0.9 < measured.fidelity.same_class <= 1.0
    assert 0.0 < measured.fidelity.mean_difference < 0.1
    said = weigh(cost(trace(file.network(), result.model.example)), target, "int8").flash_bytes.value
    assert said == pytest.approx(len(content), rel=0.1)


def test_where_tflite_micro_is_not_installed_litert_scores_and_says_so(
    file: TaskFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="the extra `litert` is not installed")
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    board = find_device("stm32h743")
    result = apply(Recipe((QuantizeStatic(),)), file.network(), file.task, board, Settings(seconds=0.1))
    assert result.artifact.measurement.score is not None
    assert result.artifact.measurement.score.runtime == "litert"
    assert "tflite-micro is not installed" in result.report


@pytest.mark.parametrize(
    ("spoils", "said"), [({True}, "kernels change the outputs"), ({True, False}, "written wrongly: please report")]
)
def test_a_file_that_is_off_is_blamed_on_whoever_made_it_so(
    file: TaskFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoils: set[bool], said: str
) -> None:
    load = host.load

    def spoiling(content: bytes, *, optimized: bool = True, **settings: Any) -> Callable[..., torch.Tensor]:
        predict = load(content, optimized=optimized, **settings)
        return (lambda x: -predict(x)) if optimized in spoils else predict

    bench = _bench(file, tmp_path, "")
    bench.artifact(Trial(Recipe()))
    monkeypatch.setattr(host, "load", spoiling)
    with pytest.raises(errors.ParityError, match=f"(?s){said}"):
        bench.artifact(Trial(Recipe((EXACT,))))


@dataclass(frozen=True)
class Talkative(Step):
    """A step that says something its user must know."""

    line: str = "3 layers stay float."

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "line"

    def apply(self, model: Model, task: Task) -> Model:
        progress.say("working")
        progress.note(self.line)
        return model

    @classmethod
    def options(cls, model: Model, device: Device) -> tuple[Talkative, ...]:
        return ()


def test_notes_of_all_steps_are_kept_with_the_candidate_also_for_a_run_that_goes_on(
    file: TaskFile, tmp_path: Path
) -> None:
    first, second = Recipe((Talkative(),)), Recipe((Talkative(), Talkative("4 bits take a byte."), EXACT))
    _bench(file, tmp_path, "").model(first)
    artifact = _bench(file, tmp_path, "").artifact(Trial(second, scored=False))
    assert artifact.measurement.notes[:2] == ("3 layers stay float.", "4 bits take a byte.")
    kept = _bench(file, tmp_path, "").artifact(Trial(second, scored=False))
    assert kept.measurement.notes == artifact.measurement.notes


@dataclass(frozen=True)
class Idle(Step):
    """A step that changes nothing, and does not say so."""

    seed: int = 0

    stage: ClassVar[Stage] = Stage.RECOVER
    strength: ClassVar[str] = "seed"

    def apply(self, model: Model, task: Task) -> Model:
        return model

    @classmethod
    def options(cls, model: Model, device: Device) -> tuple[Idle, ...]:
        return ()


def test_a_recipe_that_changes_nothing_is_an_error_and_writes_nothing(file: TaskFile, tmp_path: Path) -> None:
    settings = Settings(out=tmp_path / "out", seconds=0.1)
    with pytest.raises(NothingChangedError, match="its files are the original's, byte for byte"):
        apply(Recipe((Idle(),)), file.network, file.task, find_device("host"), settings)
    assert not (settings.out / "model.onnx").exists()


@pytest.mark.slow
def test_zeros_are_kept_where_the_link_is_limited_and_pay_there(file: TaskFile, tmp_path: Path) -> None:
    coded = _bench(file, tmp_path / "workspace", "").candidate(Trial(Recipe())).measurement.update_bytes
    assert coded is not None
    settings = Settings(out=tmp_path, seconds=0.1, epochs=2, techniques=("prune_weights",))
    limit = int(0.6 * coded.value)
    result = pack(file.network, file.task, "host", Budget(update_bytes=limit, max_drop=0.05), settings)
    assert (tmp_path / "model.hsk").stat().st_size <= limit
    assert "PruneWeights" in [type(step).__name__ for step in result.artifact.recipe.steps]
    assert result.model.sparse
    weights = dict(result.model.module.named_parameters())
    zeros = sum(int((weights[name] == 0).sum()) for name in result.model.sparse)
    assert zeros >= 0.4 * sum(weights[name].numel() for name in result.model.sparse)
