"""The search with fakes: candidates are made up by a formula, so that every way through it is cheap to walk."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from haversack.limits import Budget
from haversack.measurement import Candidate, Conditions, Figure, Measurement
from haversack.plan.found import Found, Refusal, Trial, followed
from haversack.plan.goal import Goal
from haversack.plan.search import greedy
from haversack.recipe import Recipe, Stage, Step


@dataclass(frozen=True)
class Shrink(Step):
    """Trains; leaves `keep` of size and time, and loses score as it likes."""

    keep: float = 0.5
    kind: str = "even"
    lost: float = 0.0
    epochs: int = 2

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


@dataclass(frozen=True)
class Round(Step):
    """Needs no training; leaves `size` of the flash and `time` of the latency, and loses `lost` of the score."""

    name: str = "a"
    size: float = 0.25
    time: float = 0.5
    lost: float = 0.0

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "name"

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


class World:
    """Measures recipes by formula and writes down what was asked."""

    def __init__(self, noise=None, afresh=None):
        self.asked: list[Trial] = []
        self._noise, self._afresh = noise or {}, afresh or {}

    def measure(self, trial: Trial) -> Candidate:
        self.asked.append(trial)
        flash, ratio, score = 1000.0, 1.0, 0.9
        for step in trial.recipe.steps:
            size, time = (step.keep, step.keep) if isinstance(step, Shrink) else (step.size, step.time)
            flash, ratio, score = flash * size, ratio * time, score - step.lost
            if getattr(step, "kind", "") == "cubic":
                score -= (1 - step.keep) ** 3
            trained = any(each.trains for each in trial.recipe.steps if not isinstance(each, Adopt))
            if isinstance(step, Shrink) and not trained:
                score -= 0.3 * (1 - step.keep) + (0.2 if step.kind == "odd" else 0.0)
        noise = self._afresh if trial.afresh else self._noise
        ratio *= noise.get(trial.recipe, 1.0)
        return Candidate(trial.recipe, measured(flash, ratio, score if trial.scored else None, update=flash))

    @property
    def trained(self) -> list[Recipe]:
        once = [each.recipe for each in self.asked if not each.afresh]
        return [recipe for recipe in once if any(step.trains for step in recipe.steps)]

    def search(self, options, start=None, **limits) -> Found:
        baseline = self.measure(Trial(Recipe()))
        asking = greedy(options, Goal(Budget(**limits), baseline), start and self.measure(Trial(start)))
        answer = None
        while True:
            try:
                answer = self.measure(asking.send(answer))
            except StopIteration as end:
                return end.value


def measured(flash: float, ratio: float, score: float | None, update: float | None = None) -> Measurement:
    return Measurement(
        flash_bytes=Figure(flash, "host"),
        ram_bytes=Figure(5000, "host"),
        latency_ms=Figure(10 * ratio, "host"),
        latency_ratio=Figure(ratio, "host"),
        score=None if score is None else Figure(score, "host"),
        update_bytes=None if update is None else Figure(update, "host"),
        conditions=Conditions("board", "onnx", 1, "here"),
    )


LADDER = [Shrink(keep) for keep in (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)]


def test_the_mildest_setting_that_fits_is_found_and_trained_once():
    world = World()
    found = world.search([LADDER], flash_bytes=650, max_drop=0.01)
    assert found.best.recipe == Recipe((Shrink(0.6),))
    assert found.misses == ()
    assert world.trained == [Recipe((Shrink(0.6),))]


@pytest.mark.parametrize("limit", [950, 850, 750, 650, 550, 450, 350, 250])
def test_bisection_finds_the_same_setting_as_trying_all(limit):
    world = World()
    found = world.search([LADDER], flash_bytes=limit)
    assert found.best.recipe.steps[0].keep == max(step.keep for step in LADDER if 1000 * step.keep <= limit)
    # The baseline, half of half of half of eight, untrained, trained, timed afresh.
    assert len(world.asked) <= 1 + 4 + 3


def test_what_needs_no_training_comes_first_and_training_is_left_out_when_it_is_enough():
    world = World()
    found = world.search([LADDER, [Round()]], flash_bytes=300)
    assert found.best.recipe == Recipe((Round(),))
    assert not world.trained
    assert not any(isinstance(step, Shrink) for each in world.asked for step in each.recipe.steps)


@dataclass(frozen=True)
class Drop(Round):
    """Needs no training either, but changes the structure."""

    stage: ClassVar[Stage] = Stage.STRUCTURE


def test_what_keeps_the_structure_is_tried_before_what_changes_it():
    world = World()
    found = world.search([[Drop()], [Round()]], flash_bytes=300)
    assert found.best.recipe == Recipe((Round(),))
    assert {each.recipe for each in world.asked} == {Recipe(), Recipe((Round(),))}


def test_training_is_put_before_the_numbers_that_were_kept():
    found = World().search([LADDER, [Round()]], flash_bytes=150)
    assert found.best.recipe == Recipe((Shrink(0.6), Round()))


def test_of_several_settings_without_training_the_best_scoring_one_that_fits_is_kept():
    rounds = [Round("a", lost=0.02), Round("b", lost=0.001), Round("c", size=0.5)]
    found = World().search([rounds], flash_bytes=300)
    assert found.best.recipe == Recipe((rounds[1],))
    assert [verdict.kept for verdict in found.verdicts] == [False, True, False]
    assert [verdict.why for verdict in found.verdicts] == [
        "another setting does better", "flash x0.25; not limited: latency x0.50", "another setting does better",
    ]  # fmt: skip


def test_a_step_that_moves_no_limited_measure_is_dropped():
    found = World().search([[Round(size=0.99, time=0.1)]], flash_bytes=500)
    assert found.best.recipe == Recipe()
    assert [(verdict.kept, verdict.why) for verdict in found.verdicts] == [
        (False, "nothing that was limited fell by 2% or more: flash x0.99; not limited: latency x0.10")
    ]


@pytest.mark.parametrize(("size", "time", "pays"), [
    (0.5, 1.0, True), (1.0, 0.5, True), (1.0, 1.0, False), (0.5, 2.0, False), (1.5, 0.5, False),
])  # fmt: skip
def test_with_no_limits_a_step_pays_that_makes_the_file_smaller_or_faster_at_no_cost_of_the_other(size, time, pays):
    found = World().search([[Round(size=size, time=time)]])
    assert bool(found.best.recipe.steps) is pays
    assert found.verdicts[0].why.startswith("flash x" if pays else "no gain without a loss: ")


def test_what_is_slower_is_kept_where_only_size_was_asked_for_and_dropped_where_only_speed_was():
    slower = [[Round(size=0.25, time=1.17)]]
    assert World().search(slower, flash_bytes=500).best.recipe.steps
    assert not World().search(slower, latency_ratio=2.0).best.recipe.steps


def test_a_budget_that_the_original_meets_costs_no_training_and_no_score():
    world = World()
    found = world.search([LADDER, [Round(lost=0.2)]], flash_bytes=2000, max_drop=0.01)
    assert found.best.recipe == Recipe()
    assert found.misses == ()
    assert not world.trained
    assert found.verdicts[0].why == "misses more"


def test_a_budget_that_the_original_meets_still_takes_what_is_free():
    assert World().search([LADDER, [Round()]], flash_bytes=2000, max_drop=0.01).best.recipe == Recipe((Round(),))


def test_nothing_is_trained_when_nothing_fits_and_the_nearest_is_named():
    world = World()
    found = world.search([LADDER], flash_bytes=100, latency_ratio=0.9)
    assert not world.trained
    assert found.best.recipe == Recipe((Shrink(0.2, epochs=0),))
    assert [(miss.limit, miss.found) for miss in found.misses] == [("flash", 200.0)]


def test_a_dry_run_that_fits_is_never_the_answer_when_training_loses_the_score():
    ladder = [Shrink(keep, lost=0.5) for keep in (0.8, 0.4)]
    world = World()
    found = world.search([ladder, [Other(0.9)]], flash_bytes=500, max_drop=0.01)
    assert found.misses
    assert found.best.measurement.score is not None
    assert world.trained[0] == Recipe((ladder[1],))


@dataclass(frozen=True)
class Other(Shrink):
    """A second technique that trains."""


def test_the_nearest_is_the_one_that_misses_least_and_not_the_last():
    ladder = [Shrink(0.5, lost=0.89)]
    found = World().search([ladder, [Round("a", 0.52)]], flash_bytes=500, max_drop=0.01)
    assert found.best.recipe == Recipe((Round("a", 0.52),))
    assert [miss.limit for miss in found.misses] == ["flash"]


def test_a_score_that_is_missed_is_not_answered_with_a_stronger_step():
    world = World()
    world.search([[Shrink(keep, lost=0.5) for keep in (0.6, 0.5, 0.4)]], flash_bytes=600, max_drop=0.01)
    assert [recipe.steps[0].keep for recipe in world.trained] == [0.6]


def test_numbers_that_lose_the_score_are_kept_only_where_the_distance_shrinks():
    closer = World().search([[Round(lost=0.02)]], flash_bytes=500, max_drop=0.01)
    assert closer.best.recipe.steps
    farther = World().search([[Round(size=0.9, lost=0.8)]], flash_bytes=500, max_drop=0.01)
    assert farther.best.recipe == Recipe()
    assert farther.verdicts[0].why == "misses more"


def test_numbers_that_lost_the_score_are_undone_where_the_structure_alone_is_enough():
    world = World()
    found = world.search([LADDER, [Round(lost=0.05)]], flash_bytes=600, max_drop=0.01)
    assert found.best.recipe == Recipe((Shrink(0.6),))
    assert found.misses == ()
    undone = next(verdict for verdict in found.verdicts if verdict.candidate.recipe == Recipe((Round(lost=0.05),)))
    assert not undone.kept
    assert undone.why.startswith("undone: misses score")


def test_where_the_structure_alone_is_not_enough_both_are_tried_together():
    world = World()
    found = world.search([LADDER, [Round(lost=0.05)]], flash_bytes=100, max_drop=0.01)
    assert world.trained == [Recipe((Shrink(0.4), Round(lost=0.05)))]
    assert [miss.limit for miss in found.misses] == ["score"]


def test_a_final_measurement_that_misses_by_noise_leads_to_the_next_stronger_step():
    ladder = [*LADDER]
    world = World(noise={Recipe((Shrink(0.6), Round())): 1.05, Recipe((Shrink(0.5), Round())): 1.3})
    found = world.search([ladder, [Round()]], latency_ratio=0.305)
    assert [recipe.steps[0].keep for recipe in world.trained] == [0.6, 0.5, 0.4]
    assert found.best.recipe == Recipe((Shrink(0.4), Round()))
    assert found.misses == ()


def test_noise_in_dry_measurements_never_ends_in_an_answer_that_misses():
    for noise in (0.9, 1.1):
        for keep in (0.7, 0.6, 0.5):
            world = World(noise={Recipe((Shrink(keep, epochs=0),)): noise})
            found = world.search([LADDER], latency_ratio=0.62)
            assert found.misses == ()
            assert found.best.measurement.latency_ratio.value <= 0.62


def test_of_several_ladders_the_one_that_scores_best_before_training_is_trained():
    ladders = [Shrink(keep, kind) for kind in ("odd", "even") for keep in (0.8, 0.6, 0.4)]
    world = World()
    found = world.search([ladders], flash_bytes=600)
    assert found.best.recipe == Recipe((Shrink(0.6, "even"),))
    assert len(world.trained) == 1


def test_ladders_of_one_step_each_stay_apart():
    world = World()
    found = world.search([[Shrink(0.5, "odd"), Shrink(0.5, "even"), Shrink(0.5, "third")]], flash_bytes=600)
    assert found.best.recipe.steps[0].kind == "even"
    assert len(world.trained) == 1


def test_what_fits_is_scored_once_before_training_and_once_after_it():
    world = World()
    world.search([LADDER], flash_bytes=600)
    assert [each for each in world.asked if each.scored and not each.afresh] == [
        Trial(Recipe()), Trial(Recipe((Shrink(0.6, epochs=0),))), Trial(Recipe((Shrink(0.6),))),
    ]  # fmt: skip


def test_a_second_technique_builds_on_the_best_scored_candidate():
    firsts, seconds = [Shrink(0.5)], [Other(0.5)]
    world = World(noise={Recipe((firsts[0],)): 1.2})
    found = world.search([firsts, seconds], latency_ratio=0.5)
    assert found.misses == ()
    assert all(step.epochs for step in found.best.recipe.steps)


@dataclass(frozen=True)
class Zeros(Shrink):
    """Trains too, and makes only the coded file smaller."""

    stage: ClassVar[Stage] = Stage.SPARSITY


def test_zeros_are_not_tried_where_no_coded_file_is_limited():
    world = World()
    world.search([[Zeros(0.5)]], flash_bytes=600)
    assert len(world.asked) == 1
    assert World().search([[Zeros(0.5)]], flash_bytes=600, update_bytes=600).best.recipe == Recipe((Zeros(0.5),))


def test_of_rival_techniques_the_one_that_scores_best_before_training_is_trained_first():
    world = World()
    found = world.search([[Shrink(0.5, "odd")], [Other(0.5)]], flash_bytes=500)
    assert found.best.recipe == Recipe((Other(0.5),))
    assert world.trained == [found.best.recipe]


def test_a_rival_is_trained_where_the_best_one_loses_the_score():
    world = World()
    found = world.search([[Shrink(0.5, "odd")], [Other(0.5, lost=0.1)]], flash_bytes=500, max_drop=0.01)
    assert world.trained == [Recipe((Other(0.5, lost=0.1),)), Recipe((Shrink(0.5, "odd"),))]
    assert found.misses == ()


def test_two_techniques_are_mixed_where_neither_is_enough_alone():
    found = World().search([[Shrink(0.7)], [Other(0.8), Other(0.6)]], flash_bytes=500)
    assert found.misses == ()
    assert found.best.recipe == Recipe((Shrink(0.7, epochs=0), Other(0.6)))


def test_a_mixture_is_trained_where_it_scores_better_than_either_alone():
    halves = [Shrink(keep, "cubic") for keep in (0.9, 0.7, 0.5)], [Other(keep, "cubic") for keep in (0.9, 0.7, 0.5)]
    found = World().search(halves, flash_bytes=500, max_drop=0.06)
    assert found.best.recipe == Recipe((Shrink(0.7, "cubic", epochs=0), Other(0.7, "cubic")))
    assert found.misses == ()


@dataclass(frozen=True)
class Picky(Shrink):
    """Refuses what is milder than it likes, or stronger than it can."""


def refusing(world: World, options, **limits) -> Found:
    """A search in which Picky does nothing above 0.7 and cannot go below 0.4."""
    asking, answer = greedy(options, Goal(Budget(**limits), world.measure(Trial(Recipe())))), None
    while True:
        try:
            trial = asking.send(answer)
        except StopIteration as end:
            return end.value
        keeps = [step.keep for step in trial.recipe.steps if isinstance(step, Picky)]
        if any(keep > 0.7 or keep < 0.4 for keep in keeps):
            answer = Refusal(trial.recipe, "no layer pays" if keeps[0] > 0.7 else "out of reach", keeps[0] < 0.4)
        else:
            answer = world.measure(trial)


def test_what_a_step_refuses_is_told_and_does_not_end_the_search():
    ladder = [Picky(each / 100) for each in range(95, 15, -5)]
    found = refusing(World(), [ladder], flash_bytes=560)
    assert found.best.recipe == Recipe((Picky(0.55),))
    assert found.misses == ()
    strict = refusing(World(), [ladder, [Other(0.2)]], flash_bytes=300)
    assert strict.best.recipe == Recipe((Other(0.2),))
    assert {each.why for each in strict.refusals} == {"out of reach"}
    nothing = refusing(World(), [[Picky(0.9)]], flash_bytes=560)
    assert nothing.best.recipe == Recipe()
    assert [each.why for each in nothing.refusals] == ["no layer pays"]


def test_what_was_refused_is_asked_and_told_once():
    asked = []

    class Refusing(World):
        def measure(self, trial):
            asked.append(trial)
            refused = any(isinstance(step, Picky) for step in trial.recipe.steps)
            return Refusal(trial.recipe, "never") if refused else super().measure(trial)

    found = Refusing().search([[Picky(0.5)], [Picky(0.5, "even", 0.0)], [Other(0.2)]], flash_bytes=300)
    assert len({*asked}) == len(asked)
    assert len({each.recipe for each in found.refusals}) == len(found.refusals) > 0


@pytest.mark.parametrize("options", [[], [[]], [[], ()]])
def test_nothing_to_try_gives_the_original(options):
    found = World().search(options, flash_bytes=500)
    assert found.best.recipe == Recipe()
    assert [miss.limit for miss in found.misses] == ["flash"]
    assert found.verdicts == ()


@dataclass(frozen=True)
class Adopt(Shrink):
    """Another network, of `keep` of the original's size."""

    stage: ClassVar[Stage] = Stage.DESIGN


STUDENT = Adopt(0.4, epochs=9)


def test_a_student_that_fits_is_the_answer_and_nothing_else_is_tried():
    world = World()
    found = world.search([LADDER, [Round()]], start=Recipe((STUDENT,)), flash_bytes=400)
    assert found.best.recipe == Recipe((STUDENT,))
    assert [(verdict.kept, verdict.why) for verdict in found.verdicts] == [
        (True, "the start: flash x0.40; not limited: latency x0.40")
    ]
    assert {each.recipe for each in world.asked} == {Recipe(), Recipe((STUDENT,))}


def test_what_follows_builds_on_the_student_and_trains_it_no_second_time():
    world = World()
    found = world.search([LADDER, [Round()]], start=Recipe((STUDENT,)), flash_bytes=60)
    assert found.best.recipe == Recipe((STUDENT, Shrink(0.6), Round()))
    assert all(STUDENT in each.recipe.steps for each in world.asked[1:])


def test_a_score_is_held_against_the_original_and_not_against_the_student():
    student = Adopt(0.4, lost=0.05, epochs=9)
    found = World().search([[Round(lost=0.001)]], start=Recipe((student,)), flash_bytes=100, max_drop=0.01)
    assert [miss.limit for miss in found.misses] == ["score"]
    assert found.best.recipe.steps[0] == student


@dataclass(frozen=True)
class Mend(Step):
    """Trains; moves no size, and wins back `won` of the score."""

    epochs: int = 2
    won: float = 0.02
    keep: float = 1.0

    stage: ClassVar[Stage] = Stage.RECOVER
    strength: ClassVar[str] = "epochs"

    @property
    def lost(self):
        return -self.won

    def apply(self, model, task):
        return model

    @classmethod
    def options(cls, model, device):
        return ()


class Mending(World):
    """Knows that Mend takes no bytes."""

    def measure(self, trial):
        won = sum(step.won for step in trial.recipe.steps if isinstance(step, Mend))
        rest = Recipe(tuple(step for step in trial.recipe.steps if not isinstance(step, Mend)))
        found = super().measure(Trial(rest, trial.scored)).measurement
        self.asked[-1] = trial
        score = found.score and found.score.value + won
        return Candidate(trial.recipe, measured(found.flash_bytes.value, found.latency_ratio.value, score))


MENDS = [Mend(2, 0.005), Mend(5, 0.03), Mend(10, 0.05)]


def test_a_lost_score_is_won_back_by_the_mildest_step_that_is_enough():
    world = Mending()
    found = world.search([MENDS, [Round(lost=0.03)]], flash_bytes=300, max_drop=0.01)
    assert found.best.recipe == Recipe((MENDS[1], Round(lost=0.03)))
    assert found.misses == ()
    assert world.trained == [Recipe((step, Round(lost=0.03))) for step in MENDS[:2]]
    assert [(verdict.kept, verdict.why) for verdict in found.verdicts[1:]] == [
        (False, "undone: misses score: 0.875, allowed 0.89 (misses by 0.015)"), (True, "score +0.0300"),
    ]  # fmt: skip


def test_of_recoveries_that_are_not_enough_the_best_stays():
    found = Mending().search([MENDS, [Round(lost=0.2)]], flash_bytes=300, max_drop=0.01)
    assert found.best.recipe == Recipe((MENDS[2], Round(lost=0.2)))
    assert [miss.limit for miss in found.misses] == ["score"]


def test_a_recovery_that_loses_score_is_dropped():
    world = Mending()
    found = world.search([[Mend(2, -0.1)], [Round(lost=0.03)]], flash_bytes=300, max_drop=0.01)
    assert found.best.recipe == Recipe((Round(lost=0.03),))
    assert not found.verdicts[-1].kept


def test_nothing_is_recovered_where_no_score_is_missed_or_a_size_is():
    for limits in ({"flash_bytes": 300}, {"flash_bytes": 100, "max_drop": 0.01}):
        world = Mending()
        world.search([MENDS, [Round(lost=0.03)]], **limits)
        assert not world.trained


def test_the_verdicts_tell_every_recipe_that_was_tried_once():
    ladders = [Shrink(keep, kind) for kind in ("odd", "even") for keep in (0.8, 0.6, 0.4)]
    world = World()
    found = world.search([ladders, [Round(size=0.9), Round("b", size=0.95)]], flash_bytes=400, max_drop=0.01)
    asked = {each.recipe for each in world.asked[1:]}
    told = [verdict.candidate.recipe for verdict in found.verdicts]
    assert sorted(map(str, told)) == sorted(map(str, asked))
    assert all(verdict.why for verdict in found.verdicts)


def test_the_kept_verdicts_are_steps_of_the_answer():
    found = World().search([LADDER, [Round(), Round("b")]], flash_bytes=150)
    kept = [verdict.candidate.recipe for verdict in found.verdicts if verdict.kept]
    assert kept[-1] == found.best.recipe
    assert all(set(recipe.steps) <= set(found.best.recipe.steps) for recipe in kept)


def test_the_same_answers_give_the_same_questions():
    worlds = [World(), World()]
    options = [LADDER, [Round(size=0.9), Round("b", size=0.8)]]
    founds = [world.search(options, flash_bytes=300, max_drop=0.01) for world in worlds]
    assert worlds[0].asked == worlds[1].asked
    assert founds[0] == founds[1]


@pytest.mark.parametrize("floor", [0.0, 0.9])
def test_a_score_at_its_floor_is_no_obstacle(floor):
    assert World().search([LADDER], flash_bytes=600, score_at_least=floor).misses == ()


@pytest.mark.parametrize(
    ("limits", "flash", "ratio", "wanted"),
    [
        ({"flash_bytes": 1}, 970, 1.0, True),
        ({"flash_bytes": 1}, 985, 0.1, False),
        ({"latency_ratio": 0.1}, 100, 0.99, False),
        ({"latency_ms": 0.1}, 1000, 0.9, True),
        ({"latency_ms": 0.1, "flash_bytes": 1}, 900, 1.2, True),
        ({"ram_bytes": 1}, 100, 0.1, False),
        ({}, 900, 1.0, True),
        ({}, 1000, 0.9, True),
        ({}, 990, 0.99, False),
    ],
)
def test_a_measure_has_moved_when_a_limited_one_fell_noticeably(limits, flash, ratio, wanted):
    before, after = (Candidate(Recipe(), measured(*each, 0.9)) for each in ((1000, 1.0), (flash, ratio)))
    assert Goal(Budget(**limits), before).moved(before, after) is wanted


@pytest.mark.parametrize(("update", "wanted"), [(300, True), (396, False)])
def test_the_coded_file_counts_where_the_link_is_limited(update, wanted):
    before, after = (Candidate(Recipe(), measured(1000, 1.0, 0.9, each)) for each in (400, update))
    assert Goal(Budget(update_bytes=1), before).moved(before, after) is wanted
    assert not Goal(Budget(flash_bytes=1), before).moved(before, after)


@dataclass(frozen=True)
class Spoiled(Shrink):
    """Loses `first` of the score untrained, and `lost` of it trained."""

    first: float = 0.0

    def __post_init__(self):
        if not self.epochs:
            object.__setattr__(self, "lost", self.first - 0.3 * (1 - self.keep))


def test_what_meets_every_limit_untrained_and_keeps_its_score_is_not_trained():
    world = World()
    found = world.search([[Spoiled(0.6, lost=0.02)]], flash_bytes=600)
    assert [step.epochs for step in found.best.recipe.steps] == [0]
    assert not world.trained


def test_what_meets_every_limit_untrained_with_a_score_that_was_limited_is_not_trained():
    world = World()
    assert world.search([[Shrink(0.6)]], flash_bytes=600, max_drop=0.2).best.recipe == Recipe((Shrink(0.6, epochs=0),))
    assert not world.trained
    assert World().search([[Shrink(0.6)]], flash_bytes=600, max_drop=0.1).best.recipe == Recipe((Shrink(0.6),))


@pytest.mark.parametrize(("lost", "epochs"), [(0.13, 0), (0.119, 0), (0.1, 2)])
def test_training_replaces_what_met_every_limit_only_by_what_scores_better_beyond_the_noise(lost, epochs):
    found = World().search([[Spoiled(0.6, lost=lost, first=0.12)]], flash_bytes=600)
    assert [step.epochs for step in found.best.recipe.steps] == [epochs]
    told = next(each for each in found.verdicts if each.candidate.recipe.steps[0].epochs)
    assert told.kept is bool(epochs)
    assert epochs or "no better than before training, where chance moves it by" in told.why


def test_an_answer_that_misses_when_it_is_timed_afresh_gives_way_to_the_next_one():
    lucky, steady = Round("lucky", time=0.40), Round("steady", time=0.44)
    found = World(afresh={Recipe((lucky,)): 1.2}).search([[lucky, steady]], latency_ratio=0.45)
    assert found.best.recipe == Recipe((steady,))
    told = {each.candidate.recipe.steps[0].name: each.candidate.measurement for each in found.verdicts}
    assert told["lucky"].latency_ratio.value == pytest.approx(0.48)


def test_the_figures_of_the_answer_are_those_of_the_last_timing():
    found = World(afresh={Recipe((Round(),)): 0.9}).search([[Round()]], latency_ratio=0.6)
    assert found.best.measurement.latency_ratio.value == pytest.approx(0.45)
    assert found.verdicts[0].candidate == found.best


def test_where_no_answer_stands_a_second_timing_the_miss_is_told():
    found = World(afresh={Recipe((Round(),)): 1.3}).search([[Round()]], latency_ratio=0.6)
    assert not found.met
    assert [miss.limit for miss in found.misses] == ["latency ratio"]
    assert found.best.measurement.latency_ratio.value == pytest.approx(0.65)


def test_a_stronger_step_is_trained_where_a_trained_one_misses_when_timed_afresh():
    world = World(afresh={Recipe((Shrink(0.6),)): 1.1})
    found = world.search([LADDER], latency_ratio=0.6, score_at_least=0.9)
    assert [recipe.steps[0].keep for recipe in world.trained] == [0.6, 0.5]
    assert found.best.recipe == Recipe((Shrink(0.5),))


def test_the_nearest_of_an_impossible_goal_is_scored():
    world = World()
    found = world.search([LADDER], flash_bytes=100)
    assert found.best.measurement.score.value == pytest.approx(0.9 - 0.3 * 0.8)
    assert Trial(found.best.recipe) in world.asked


class Blind(World):
    """Knows no latency of what was shrunk."""

    def measure(self, trial):
        found = super().measure(trial)
        if not any(isinstance(step, Shrink) for step in trial.recipe.steps):
            return found
        return replace(found, measurement=replace(found.measurement, latency_ms=None))


def test_what_no_figure_can_judge_is_no_answer():
    world = Blind()
    found = world.search([LADDER], flash_bytes=600, latency_ms=9.0)
    assert not found.met
    assert not world.trained
    assert "cannot be judged" in found.verdicts[0].why
    judged = Blind().search([LADDER, [Round()]], flash_bytes=600, latency_ms=9.0)
    assert judged.met
    assert judged.best.recipe == Recipe((Round(),))


class Stopping(World):
    """Somebody presses Ctrl-C while the trial of this number is made, and patiently waits after it."""

    def __init__(self, after):
        super().__init__()
        self._after = after

    def measure(self, trial):
        if len(self.asked) == self._after:
            self._after = -1
            raise KeyboardInterrupt
        return super().measure(trial)


@pytest.mark.parametrize("after", range(2, 9))
def test_whoever_stops_a_search_gets_the_best_answer_so_far_timed_afresh(after):
    world = Stopping(after)
    rounds = [Round("a", size=0.5), Round("b", size=0.45), Round("c", size=0.8)]
    search = greedy([LADDER, rounds], Goal(Budget(flash_bytes=500), world.measure(Trial(Recipe()))))
    found = followed(search, world.measure)
    best = Recipe((rounds[min(after, 3) - 2],))
    assert (found.met, found.best.recipe) == (True, best)
    assert found.stopped is (after < 5)
    assert Trial(best, afresh=True) in world.asked
    assert {each.recipe for each in world.asked} == {Recipe(), *(each.candidate.recipe for each in found.verdicts)}


def test_whoever_stops_twice_does_not_wait():
    def impatient(trial):
        raise KeyboardInterrupt

    search = greedy(
        [[Round()]], Goal(Budget(), World().measure(Trial(Recipe()))), World().measure(Trial(Recipe((Round(),))))
    )
    with pytest.raises(KeyboardInterrupt):
        followed(search, impatient)


def test_a_search_that_is_stopped_at_its_first_question_has_the_original():
    asking = greedy([LADDER], Goal(Budget(flash_bytes=500), World().measure(Trial(Recipe()))))
    next(asking)
    with pytest.raises(StopIteration) as end:
        asking.throw(KeyboardInterrupt())
    assert end.value.value.stopped
    assert end.value.value.best.recipe == Recipe()
    assert not end.value.value.met
