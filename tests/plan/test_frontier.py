"""The frontier: nobody on it is beaten, few rows tell of many, and the answer is among them."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.limits import LIMITS
from haversack.measurement import Candidate, Conditions, Figure, Measurement
from haversack.plan.frontier import FrontierRow, Prediction, drawn, measured_rows
from haversack.recipe import Recipe, Stage, Step


@dataclass(frozen=True)
class Marked(Step):
    """A step that tells recipes apart."""

    number: int = 0

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "number"

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


def measured(flash: float, ratio: float | None, score: float | None) -> Measurement:
    return Measurement(
        flash_bytes=Figure(flash, "host"),
        ram_bytes=Figure(5000, "host"),
        latency_ms=None,
        latency_ratio=None if ratio is None else Figure(ratio, "host"),
        score=None if score is None else Figure(score, "host"),
        conditions=Conditions("host", "onnx", 1, "here"),
    )


ORIGINAL = measured(1000, 1.0, 0.95)
figures = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.booleans())


def rows(table) -> list[FrontierRow]:
    """A row for each (flash, latency, score, built)."""
    made = []
    for number, (flash, ratio, score, built) in enumerate(table):
        recipe, found = Recipe((Marked(number),)), measured(50 * flash, ratio / 12, score / 12)
        told = {"flash_bytes": 50.0 * flash, "latency_ratio": ratio / 12, "score": score / 12}
        made.append(FrontierRow(recipe, told, found if built else None))
    return made


def merits(row: FrontierRow) -> tuple[float, float, float]:
    if row.measurement is None:
        return -row.predicted["flash_bytes"], -row.predicted["latency_ratio"], row.predicted["score"]
    found = row.measurement
    return -found.flash_bytes.value, -found.latency_ratio.value, found.score.value


def beaten(row: FrontierRow, others) -> bool:
    ours = merits(row)
    return any(ours != merits(each) and all(a <= b for a, b in zip(ours, merits(each), strict=True)) for each in others)


@settings(max_examples=200)
@given(st.lists(figures, max_size=40))
def test_nobody_on_the_frontier_is_beaten_and_whoever_is_left_out_is_beaten_or_one_too_many(table):
    pool = rows(table)
    found, original = drawn(pool, ORIGINAL), FrontierRow(Recipe(), {}, ORIGINAL)
    unbeaten = [row for row in pool if not beaten(row, [*pool, original])]
    assert all(row in unbeaten for row in found)
    assert len(found) == min(9, len(unbeaten))
    scores = [merits(row)[2] for row in found]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=100)
@given(st.lists(figures, min_size=1, max_size=40), st.data())
def test_the_extremes_and_the_answer_are_on_it_however_many_there_are(table, data):
    pool = rows(table)
    answer = data.draw(st.sampled_from(pool))
    found = drawn(pool, ORIGINAL, kept=[answer.recipe])
    assert answer in found
    unbeaten = [row for row in pool if not beaten(row, [*pool, FrontierRow(Recipe(), {}, ORIGINAL)])]
    for at in range(3):
        assert not unbeaten or max(merits(row)[at] for row in found) == max(
            merits(row)[at] for row in [*unbeaten, answer]
        )


def test_what_was_measured_counts_before_what_was_predicted():
    row = FrontierRow(Recipe((Marked(1),)), {"flash_bytes": 10.0, "score": 0.5}, measured(20, None, 0.6))
    flash, ratio = (next(limit for limit in LIMITS if limit.field == name) for name in ("flash_bytes", "latency_ratio"))
    assert row.figure(flash) == Figure(20, "host")
    assert row.figure(ratio) is None
    assert replace(row, measurement=None).figure(flash) == Figure(10.0, "estimated")


def test_a_candidate_without_a_score_and_the_original_are_no_rows():
    pool = [Candidate(Recipe((Marked(1),)), measured(10, 0.5, None)), Candidate(Recipe(), ORIGINAL)]
    assert drawn(measured_rows(pool), ORIGINAL) == ()
    again = [Candidate(Recipe((Marked(1),)), measured(flash, 0.5, 0.9)) for flash in (10, 11)]
    assert [row.measurement.flash_bytes.value for row in measured_rows(again)] == [11]


@pytest.mark.parametrize(("predicted", "true", "error"), [(11.0, 10.0, 0.1), (9.0, 10.0, -0.1), (0.0, 0.0, 0.0)])
def test_an_error_of_a_prediction_is_a_share_of_the_truth(predicted, true, error):
    assert Prediction(Recipe(), "flash_bytes", predicted, true).error == pytest.approx(error)
