"""What is foreseen of real digits is what `pack` then sets out to build, and how large that is."""

from dataclasses import replace
from pathlib import Path

import pytest

from haversack.device import find_device
from haversack.errors import BudgetError
from haversack.limits import Budget
from haversack.packing import Bench, Settings, pack
from haversack.packing.foresight import foreseen
from haversack.plan.forecast import Forecast
from haversack.plan.found import Trial
from haversack.progress import shown_by
from haversack.recipe import Recipe
from haversack.task import TaskFile, read_task_file
from tests.heard import Heard

TASK = Path(__file__).parents[1] / "tasks" / "digits_small.py"
LIMITS = Budget(flash_bytes=9_000, max_drop=0.03)
BRIEF = Settings(seconds=0.1)
MICRO = find_device("stm32f405")


@pytest.fixture(scope="module")
def file() -> TaskFile:
    return read_task_file(TASK)


@pytest.fixture(scope="module")
def told(file: TaskFile) -> dict[str, Forecast]:
    return foreseen(file.network(), file.task, MICRO, LIMITS, BRIEF)


@pytest.fixture(scope="module")
def bench(file: TaskFile, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.set_up(file.network(), file.task, MICRO, BRIEF, tmp_path_factory.mktemp("built"))


class _FirstPlanError(Exception):
    """Ends a run as soon as it wants something built."""


def test_all_together_is_what_pack_builds_first(file, told, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Recipe] = []

    def answer(_: Bench, trial: Trial) -> None:
        asked.append(trial.recipe)
        raise _FirstPlanError

    monkeypatch.setattr(Bench, "answer", answer)
    with pytest.raises(_FirstPlanError):
        pack(file.network(), file.task, MICRO, LIMITS, BRIEF)
    assert asked == [told["combination"].recipe]
    assert told["combination"].enough


@pytest.mark.parametrize("family", ["pruning", "combination"])
def test_the_file_of_a_family_is_as_large_as_predicted(bench: Bench, told, family: str) -> None:
    built = bench.candidate(Trial(told[family].recipe, scored=False)).measurement
    assert told[family].figures["flash_bytes"] == pytest.approx(built.flash_bytes.value, rel=0.02)
    assert told[family].enough == (built.flash_bytes.value <= 9_000)


def test_where_nothing_is_limited_nothing_is_predicted(file) -> None:
    free = replace(MICRO, flash_bytes=None, ram_bytes=None)
    assert foreseen(file.network(), file.task, free, Budget()) == {}


def test_why_nothing_is_predicted_is_said(file, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise BudgetError("it cannot be written.", where="model.onnx")

    monkeypatch.setattr(Bench, "set_up", fails)
    heard = Heard()
    with shown_by(heard):
        assert foreseen(file.network(), file.task, MICRO, LIMITS) == {}
    assert heard.lines == ["nothing is predicted, advice is from counts alone: model.onnx: it cannot be written."]


def test_zeros_and_codebooks_are_foretold_where_the_update_is_limited_and_only_there(file, bench: Bench, told) -> None:
    limits, stored = Budget(update_bytes=20_000, max_drop=0.03), ("prune_weights", "cluster_weights")
    foretold = foreseen(file.network(), file.task, MICRO, limits, replace(BRIEF, techniques=stored))
    sparse = foretold["zeros and codebooks"]
    assert set(sparse.techniques) <= {"prune_weights", "cluster_weights"}
    assert sparse.enough
    built = bench.candidate(Trial(sparse.recipe, scored=False)).measurement
    assert sparse.figures["update_bytes"] == pytest.approx(built.update_bytes.value, rel=0.1)
    assert "zeros and codebooks" not in told
