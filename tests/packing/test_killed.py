"""The same answer, whatever happens meanwhile: a run that is killed, or one beside other work."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import warm
from tests.kill import LIMITS, PROGRAM, Kills, measured, started, words

TIMED = (*LIMITS, "--latency", "2x")
"""The limit of time is wide: what it is held against is measured anew in each run."""


def begun(out: Path, limits: Sequence[str]) -> warm.Program:
    return warm.Program(PROGRAM, *words(out, limits))


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    """With a run that nobody disturbs, for all tests."""
    return Kills(tmp_path_factory.mktemp("runs"), TIMED, begun)


@pytest.mark.slow
def test_a_pack_that_is_killed_at_any_moment_ends_the_same_measures_nothing_twice_and_leaves_no_litter(
    kills: Kills,
) -> None:
    """At about 15, 50 and 65 % of a run."""
    kills.times(3, seed=79)
    assert not kills.wrong


BOUND = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " if sys.platform == "linux" else ""
"""Binds a process to one core."""


def _busy() -> None:
    exec(BOUND)
    while True:
        pass


@pytest.mark.slow
def test_the_same_times_of_layers_give_the_same_recipe_also_beside_other_work(kills: Kills, tmp_path: Path) -> None:
    """The other work is on the very core that the run is bound to, or where none can be bound, on all."""
    beside = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(1 if BOUND else os.cpu_count() or 1)]
    for other in beside:
        other.start()
    try:
        _, said = warm.Program(BOUND + PROGRAM, *words(tmp_path, TIMED)).communicate(timeout=600)
    finally:
        for other in beside:
            other.kill()
            other.join()
    assert (tmp_path / "recipe.toml").exists(), said
    assert (tmp_path / "recipe.toml").read_bytes() == (kills.whole / "recipe.toml").read_bytes()


@pytest.mark.slow
def test_a_pack_that_was_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    run = started(tmp_path)
    deadline = time.monotonic() + 120
    while not measured(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "repeat the command" in errors.lower()
    assert "Traceback" not in errors
