"""Hostile files and command lines end with a message, quickly, in little memory, and write nothing elsewhere."""

import shutil

import pytest

from tests.fuzz.subjects import SUBJECTS
from tests.fuzz.watch import Tally, fuzz, grown, in_turn

SEED = 15
CASES = {
    "device": 60,
    "recipe": 60,
    "network": 40,
    "coded": 150,
    "line": 80,
    "applied": 8,
    "result": 4,
    "onnx": 4,
    "tflite": 4,
    "workspace": 3,
}


@pytest.fixture(scope="module")
def seeds():
    folder = grown()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_no_hostile_input_ends_in_a_traceback_a_hang_a_flood_or_elsewhere(seeds):
    found = fuzz(in_turn(SUBJECTS, SEED, CASES), Tally.of(SUBJECTS), seeds)
    assert not found, "\n".join(f"{each}\n{each.detail}" for each in found)
