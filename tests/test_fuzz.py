"""Hostile files and command lines end with a message, quickly, in little memory, and write nothing elsewhere."""

import json
import os
import subprocess
import sys

import pytest

from tests import warm
from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.watch import ROOT, Tally, fuzz, in_turn
from tests.sweep import count

SEED = 15
CASES = {
    "device": 30,
    "recipe": 40,
    "network": 12,
    "coded": 60,
    "graph": 100,
    "line": 60,
    "applied": 8,
    "result": 3,
    "reading": 30,
    "onnx": 3,
    "tflite": 3,
    "workspace": 2,
}
"""How many of each are tried; the sweep tries thirty times as many."""


GROW = "import sys; from pathlib import Path; from tests.fuzz.subjects import grow; grow(Path(sys.argv[1]))"


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    warm.run(GROW, folder)
    return folder


@pytest.mark.slow
@pytest.mark.sweep
def test_no_hostile_input_ends_in_a_traceback_a_hang_a_flood_or_elsewhere(seeds):
    cases = {name: count(some, 30 * some) for name, some in CASES.items()}
    found = fuzz(in_turn(SUBJECTS, SEED, cases), Tally.of(SUBJECTS), seeds, processes=count(1, 2))
    assert not found, "\n".join(f"{each}\n{each.detail}" for each in found)


PLANTED = """
import sys
from pathlib import Path
from tests.fuzz import child, subjects

def main(words):
    if words[0] == "flood":
        len(bytearray(600 << 20))
    if words[0] == "elsewhere":
        Path("../elsewhere").write_text("")
    if words[0] == "canary":
        Path("../canary").read_text()
    if words[0] == "traceback":
        raise KeyError(words[0])
    sys.exit(2 if words[0] == "silent" else 0)

child.main = main
for name in "flood elsewhere canary traceback silent fine".split():
    subjects.SUBJECTS[name] = lambda rng, folder, seeds, name=name: subjects.Case([name])
child.serve(Path(sys.argv[1]), Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_the_fuzzer_sees_each_fault_that_is_planted_and_none_where_there_is_none(tmp_path):
    (tmp_path / "tmp").mkdir()
    asked = "".join(f"{name} 0 0\n" for name in ("fine", "flood", "canary", "traceback", "silent", "elsewhere"))
    command = [sys.executable, "-B", "-c", PLANTED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, input=asked, capture_output=True, text=True, check=True)
    fine, flood, canary, traceback, silent, elsewhere = [
        json.loads(line)["wrong"] for line in done.stdout.splitlines()[1:]
    ]
    assert not fine
    assert "more than 500 MB" in flood
    assert "canary" in canary
    assert "KeyError" in traceback
    assert "without a word" in silent
    assert "elsewhere" in elsewhere
    assert "beside its folder" in elsewhere
