"""Every command in README, CONTRIBUTING and docs runs as it is written, on a small task and with little time."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import haversack
from haversack.cli import main
from haversack.task import read_task_file

ROOT = Path(__file__).parents[1]
TASK = ROOT / "tests" / "tasks" / "digits_small.py"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:haversack|make|torchrun|(?:\.venv/bin/)?python) [^`]*)`")
STARTS = "haversack ", "make ", "python ", "torchrun "

REDUCED = {
    "--flash 200kB --latency 5ms": "--flash 30kB --latency 5ms --try quantize_static --seconds 0.1",
    "--flash 60kB --student auto": "--flash 12kB --student auto --student-epochs 1 --try quantize_static --seconds 0.1",
    "apply packed/recipe.toml": "apply packed/recipe.toml --seconds 0.1",
    "prove packed": "prove packed --samples 4",
    "blame packed": "blame packed --suspects 1",
    "bench packed/model.onnx": "bench packed/model.onnx --seconds 0.1",
    "explore my_task.py": "explore my_task.py --try quantize_static --seconds 0.1",
    "my_task.py": str(TASK),
}
"""What stands in the documents, and what is run here: limits that a small network can meet, and little time."""

REDUCED_CODE = {
    "haversack.Budget(flash_bytes=200_000, max_drop=0.01)": "haversack.Budget(flash_bytes=30_000, max_drop=0.05), "
    "haversack.Settings(techniques=('quantize_static',), seconds=0.1, out=out)",
}


def blocks(document: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return FENCED.findall(document.read_text("utf-8"))


def commands(document: Path) -> list[str]:
    """All commands in a document, without their comments, in order."""
    fenced = [
        line.partition("#")[0] for language, text in blocks(document) if not language for line in text.splitlines()
    ]
    inline = INLINE.findall(FENCED.sub("", document.read_text("utf-8")))
    found = [" ".join(each.split()).removeprefix(".venv/bin/") for each in (*fenced, *inline)]
    return [each for each in found if each.startswith(STARTS)]


ALL = [each for document in DOCUMENTS for each in commands(document)]
WHOLE = [each for each in commands(ROOT / "README.md") if re.match(r"haversack \w+ .", each)]
"""Those with their arguments: a command that is only named, such as `haversack prove`, is in a sentence."""
ROOM = re.compile(r"`(?:haversack/)?((?:[a-z_]+/)+[a-z_]*\.py)`")
NAME = "benchmarks/NAME.py"
SCRIPTS = sorted({each.replace(" -m ", " ").split()[1] for each in ALL if each.startswith("python ")} - {NAME})
TARGETS = sorted({each.split()[1] for each in ALL if each.startswith("make ")})


def reduced(command: str) -> str:
    """The command as it is run here."""
    for written, run in REDUCED.items():
        command = command.replace(written, run)
    return command


@pytest.mark.slow
def test_all_of_readme_s_commands_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command in WHOLE:
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(reduced(command))[1:])
        printed = capsys.readouterr()
        assert not ended.value.code, f"{command}: {printed.err}"
        assert printed.out.strip(), command


@pytest.mark.slow
def test_readme_s_python_runs(tmp_path):
    (code, *others) = [text for language, text in blocks(ROOT / "README.md") if language == "python"]
    for written, run in REDUCED_CODE.items():
        assert written in code
        code = code.replace(written, run)
    file = read_task_file(TASK)
    known: dict[str, Any] = {"network": file.fresh_network(), "task": file.task, "out": tmp_path / "packed"}
    for each in (code, *others):
        exec(each, known)
    assert known["packed"].artifact.measurement.flash_bytes.value <= 30_000


def test_every_command_is_one_that_is_run_here():
    ours = {*WHOLE, *(each for each in ALL if re.fullmatch(r"haversack \w+", each))}
    left = [
        each
        for each in ALL
        if each not in ours and each.replace(" -m ", " ").split()[1] not in (*TARGETS, *SCRIPTS, NAME)
    ]
    assert not left
    assert len(WHOLE) >= 10


def test_every_reduction_is_of_a_command_that_is_there():
    unused = [written for written in REDUCED if not any(written in command for command in WHOLE)]
    assert not unused


def test_every_named_command_is_one_of_haversack_s(capsys):
    for name in {each.split()[1] for each in ALL if each.startswith("haversack ")}:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert not ended.value.code, name
        assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("target", TARGETS)
def test_every_make_target_is_there(target):
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_contributing_names_the_benchmarks_that_are_there():
    row = next(line for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if "benchmarks/NAME.py" in line)
    named = set(re.findall(r"`(\w+)`", row))
    asked = {each.stem for each in (ROOT / "benchmarks").glob("*.py") if "\nASKED = " in each.read_text()}
    assert named - {"readme"} == asked


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_says_how_it_is_used(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.delitem(sys.modules, script, raising=False)  # another test may have imported it
    run, named = (runpy.run_path, str(ROOT / script)) if script.endswith(".py") else (runpy.run_module, script)
    with pytest.raises(SystemExit) as ended:
        run(named, run_name="__main__")
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out


def test_every_row_that_a_benchmark_s_words_choose_is_there():
    for path in (ROOT / "benchmarks").glob("*.py"):
        for name in re.findall(r"--only ([a-z][\w.]*)", path.read_text()):
            assert any(row.startswith(name) for row in import_module(path.stem).ROWS), f"{path.name}: {name}"


def test_the_public_names_that_readme_uses_are_there():
    used = set(re.findall(r"\bhaversack\.([A-Za-z_]+)\b", (ROOT / "README.md").read_text()))
    assert used <= set(dir(haversack))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: each.stem)
def test_a_file_that_a_document_names_is_there(document):
    named = ROOM.findall(document.read_text("utf-8"))
    assert not [each for each in named if not any((root / each).is_file() for root in (ROOT, ROOT / "haversack"))]
