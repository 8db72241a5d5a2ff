"""The same answer, whatever happens meanwhile: a run that is killed, or one beside other work."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from tests.kill import LIMITS, Kills, measured, started


@pytest.mark.slow
def test_a_pack_that_is_killed_at_any_moment_ends_the_same_measures_nothing_twice_and_leaves_no_litter(
    tmp_path: Path,
) -> None:
    kills = Kills(tmp_path)
    kills.times(3, seed=1)
    assert not kills.wrong


def _busy() -> None:
    while True:
        pass


@pytest.mark.slow
def test_the_same_times_of_layers_give_the_same_recipe_also_beside_other_work(tmp_path: Path) -> None:
    """The limit of time is wide: what it is held against is measured anew in each run."""
    limits = (*LIMITS, "--latency", "2x")
    recipes = []
    others = [multiprocessing.Process(target=_busy, daemon=True) for _ in range(os.cpu_count() or 1)]
    for name, beside in (("quiet", []), ("busy", others)):
        for other in beside:
            other.start()
        try:
            _, said = started(tmp_path / name, limits).communicate(timeout=600)
        finally:
            for other in beside:
                other.kill()
        assert (tmp_path / name / "recipe.toml").exists(), said.decode()
        recipes.append((tmp_path / name / "recipe.toml").read_bytes())
    assert recipes[0] == recipes[1]


@pytest.mark.slow
def test_a_pack_that_was_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    run = started(tmp_path)
    deadline = time.monotonic() + 120
    while not measured(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "repeat the command" in errors.decode().lower()
    assert "Traceback" not in errors.decode()
