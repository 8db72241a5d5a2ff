"""The answer among candidates: whatever they are, it meets every limit and none of the others beats it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.limits import Budget
from haversack.measurement import Candidate, Conditions, Fidelity, Figure, Measurement, share_of
from haversack.plan.goal import Goal, noise
from haversack.recipe import Recipe, Stage, Step


@dataclass(frozen=True)
class Numbered(Step):
    """A step that tells candidates apart, trained or not."""

    number: int = 0
    epochs: int = 0

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "number"

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


def measured(flash=1000.0, ratio=1.0, score=0.9, device="host", lost=None) -> Measurement:
    return Measurement(
        flash_bytes=Figure(flash, "host"),
        ram_bytes=Figure(5000, "host"),
        latency_ms=Figure(10 * ratio, "host" if device == "host" else "estimated"),
        latency_ratio=Figure(ratio, "host"),
        score=None if score is None else share_of(500, score),
        conditions=Conditions(device, "onnx", 1, "here"),
        fidelity=None if lost is None else Fidelity(1.0, lost, 500, lost),
    )


ORIGINAL = Candidate(Recipe(), measured())
WITHIN = Budget(flash_bytes=800, latency_ratio=0.8, max_drop=0.05)
sizes, ratios = st.sampled_from([100.0, 300.0, 301.0, 500.0, 900.0]), st.sampled_from([0.2, 0.4, 0.401, 0.7, 0.9])
scores = st.one_of(st.none(), st.integers(400, 500).map(lambda right: right / 500))
found = st.tuples(sizes, ratios, scores, st.booleans())


def candidates(rows) -> list[Candidate]:
    return [
        Candidate(Recipe((Numbered(number, 2 if trained else 0),)), measured(flash, ratio, score))
        for number, (flash, ratio, score, trained) in enumerate(rows)
    ]


def merits(candidate: Candidate) -> tuple[float, float, float]:
    found = candidate.measurement
    return found.score.value, -found.flash_bytes.value, -found.latency_ratio.value


def beats(one: Candidate, other: Candidate) -> bool:
    """Whether it is as good in everything and better in something."""
    ours, theirs = merits(one), merits(other)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def beyond_noise(one: Candidate, other: Candidate) -> bool:
    """Whether `one` beats `other`, and in something by more than chance: 2 % of a size or time, or a score's noise."""
    (score, flash, ratio), (other_score, other_flash, other_ratio) = merits(one), merits(other)
    clearly = flash > 0.98 * other_flash or ratio > 0.98 * other_ratio or score > other_score + noise(other)
    return beats(one, other) and clearly


@settings(max_examples=300)
@given(st.lists(found, max_size=8), st.sampled_from([WITHIN, Budget(latency_ratio=0.8), Budget(max_drop=0.05)]))
def test_the_answer_meets_every_limit_and_is_never_beaten_beyond_noise_by_another_that_does(rows, budget):
    pool, goal = candidates(rows), Goal(budget, ORIGINAL)
    answer = goal.answer(pool)
    met = [each for each in pool if each.measurement.score and not each.measurement.misses(budget, 0.9)]
    assert (answer is None) == (not met)
    if answer is None:
        return
    assert answer in met
    assert not any(beyond_noise(each, answer) for each in met)
    best = max(met, key=merits)
    assert merits(answer)[0] >= merits(best)[0] - noise(best)
    # Nor by any that took no more effort, even by chance.
    effort = answer.recipe.steps[0].epochs
    assert not any(beats(each, answer) for each in met if each.recipe.steps[0].epochs < effort)


def answered(*rows) -> int:
    return Goal(WITHIN, ORIGINAL).answer(candidates(rows)).recipe.steps[0].number


def test_of_equals_in_score_the_smaller_and_faster_wins_and_not_the_first():
    assert answered((700, 0.7, 0.9, False), (500, 0.5, 0.9, False), (300, 0.3, 0.9, False), (400, 0.4, 0.9, False)) == 2


def test_scores_within_the_noise_of_the_best_count_as_equal():
    """One standard error of 450 right of 500 is 0.0134."""
    assert answered((500, 0.5, 0.9, False), (300, 0.3, 0.888, False)) == 1
    assert answered((500, 0.5, 0.9, False), (300, 0.3, 0.886, False)) == 0


def test_what_was_trained_wins_only_beyond_the_noise():
    assert answered((500, 0.5, 0.9, False), (499, 0.499, 0.912, True)) == 0
    assert answered((500, 0.5, 0.9, False), (500, 0.5, 0.914, True)) == 1
    assert answered((500, 0.5, 0.9, False), (300, 0.3, 0.9, True)) == 1


def test_a_candidate_that_is_better_in_everything_is_the_answer_whatever_was_limited():
    """The demo once shipped 19.7 kB at 1.53x, trained, beside 12.5 kB at 0.756x with the same score, untrained."""
    rows = ((700, 0.79, 0.98, True), (440, 0.5, 0.98, False), (660, 0.65, 0.985, False))
    for budget in (WITHIN, Budget(flash_bytes=800), Budget(latency_ratio=0.8), Budget(score_at_least=0.9)):
        assert Goal(budget, ORIGINAL).answer(candidates(rows)).recipe.steps[0].number == 1


def test_training_that_all_share_is_no_effort():
    first, second = candidates([(500, 0.5, 0.9, True), (300, 0.3, 0.9, False)])
    shared = replace(second, recipe=Recipe((*first.recipe.steps, *second.recipe.steps)))
    assert Goal(WITHIN, ORIGINAL).answer([first, shared], done=first.recipe.steps) is shared


def test_a_score_of_few_samples_is_noisier_and_a_perfect_one_is_not_certain():
    def chance(samples: int, score: float) -> float:
        return noise(Candidate(Recipe(), replace(measured(), score=share_of(samples, score))))

    assert chance(10_000, 0.9) == pytest.approx(0.003, rel=0.01)
    assert chance(100, 0.9) == pytest.approx(0.03, rel=0.05)
    assert 0 < chance(100, 1.0) < 0.02
    assert noise(Candidate(Recipe(), replace(measured(), score=Figure(-4.0, "host")))) == pytest.approx(0.008)


def test_to_stay_within_what_the_device_has_is_no_gain_but_to_get_there_is():
    smaller = Candidate(Recipe(), measured(flash=500, ratio=1.2))
    roomy, tight = (Budget(flash_bytes=limit, latency_ratio=2.0) for limit in (10_000, 600))
    asked = Budget(latency_ratio=2.0)
    assert not Goal(roomy, ORIGINAL, asked).moved(ORIGINAL, smaller)
    assert Goal(tight, ORIGINAL, asked).moved(ORIGINAL, smaller)
    assert Goal(roomy, ORIGINAL).moved(ORIGINAL, smaller)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (Budget(flash_bytes=900), "flash x0.50; not limited: latency x1.20"),
        (Budget(latency_ms=3), "latency x1.20; not limited: flash x0.50"),
        (Budget(latency_ratio=0.5, flash_bytes=900), "flash x0.50, latency x1.20"),
        (Budget(), "flash x0.50, latency x1.20"),
    ],
)
def test_a_gain_tells_what_was_limited_first_and_what_was_not_beside_it(budget, said):
    assert Goal(budget, ORIGINAL).gain(ORIGINAL, Candidate(Recipe(), measured(flash=500, ratio=1.2))) == said


def test_a_time_that_became_known_is_not_told_by_another_machine_s():
    before, after = (
        Candidate(Recipe(), replace(measured(flash, ratio, device="board"), latency_ms=latency))
        for flash, ratio, latency in ((1000, 1.0, None), (500, 2.0, Figure(3.0, "estimated")))
    )
    assert (
        Goal(Budget(latency_ms=4.0), before).gain(before, after) == "latency unknown before; not limited: flash x0.50"
    )


def test_a_limit_in_milliseconds_asks_for_the_estimate_of_another_device_and_for_the_ratio_here():
    for device, gained in (("host", False), ("board", True)):
        before, after = (
            Candidate(Recipe(), replace(measured(device=device), latency_ms=Figure(ms, "host"))) for ms in (10.0, 5.0)
        )
        assert Goal(Budget(latency_ms=1.0), before).moved(before, after) is gained


@pytest.mark.parametrize("limit", ["latency_ms", "energy_mj", "update_bytes"])
def test_what_is_unknown_is_never_met_and_farther_than_what_misses(limit):
    goal = Goal(Budget(**{limit: 1.0}), ORIGINAL)
    name = {"latency_ms": "latency", "energy_mj": "energy (mJ)", "update_bytes": "update"}[limit]
    unknown = Candidate(Recipe(), replace(measured(), latency_ms=None))
    missing = Candidate(Recipe(), replace(unknown.measurement, **{limit: Figure(1000.0, "host")}))
    assert not goal.met(unknown)
    assert goal.answer([unknown]) is None
    assert goal.unjudged(unknown) == (name,)
    assert "cannot be judged" in goal.shortfall(unknown)
    assert goal.rank(missing) < goal.rank(unknown)


@pytest.mark.parametrize(
    ("lost", "chosen"),
    [((0.2, 0.1, 0.3), 1), ((0.2, None, 0.3), 0), ((0.1, 0.2, 0.01), 2)],
    ids=["the nearest", "the best score where one is unknown", "the nearest of three"],
)
def test_of_candidates_that_score_and_need_the_same_the_nearest_to_the_original_is_the_answer(lost, chosen):
    """Their scores differ by less than chance moves them: they say less than all outputs do."""
    tried = [
        Candidate(Recipe((Numbered(number, 2),)), measured(500, 0.5, score, lost=far))
        for number, (score, far) in enumerate(zip((0.888, 0.886, 0.884), lost, strict=True))
    ]
    assert Goal(WITHIN, ORIGINAL).answer(tried) == tried[chosen]


def test_outputs_nearer_to_the_original_do_not_outweigh_a_score_beyond_noise():
    better = Candidate(Recipe((Numbered(1, 2),)), measured(500, 0.5, 0.89, lost=0.3))
    nearer = Candidate(Recipe((Numbered(2, 2),)), measured(500, 0.5, 0.86, lost=0.1))
    assert Goal(WITHIN, ORIGINAL).answer([better, nearer]) == better
