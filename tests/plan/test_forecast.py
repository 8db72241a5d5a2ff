"""Forecasts are held against all plans there are, of fake families whose sizes and losses are simple sums."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from haversack.choices import Bits, Option, Site
from haversack.limits import Budget
from haversack.measurement import Candidate, Figure
from haversack.plan.advise import Advice, advise
from haversack.plan.forecast import Forecast, forecasts
from haversack.plan.goal import Goal
from haversack.plan.problem import Measure, PlanProblem, Term
from haversack.plan.rounds import rounds
from haversack.plan.space import Space, loss_terms
from haversack.recipe import Recipe
from haversack.runtimes.estimate import weigh
from tests.plan.test_advise import CONVOLUTIONS, FAMILIES, FORMATS, PI5
from tests.plan.test_rounds import SHARES, TENTHS, Cut, Cuts, Integers, Prices, measured

BASELINE = Candidate(Recipe(), measured(1000.0, 1.0, 0.9, 0.0))


class Few:
    """Each layer in 8 or in 4 bits; the steps say so by their `bits`."""

    sites = tuple(Site(name, "quantize_static", (Option("8"), Option("4", Bits(name, 4)))) for name in "cd")

    def step(self, chosen: Sequence[int]) -> Integers:
        return Integers(8 - 2 * sum(chosen))


class Halved:
    """Size with two layers cut, each of which may be stored in half."""

    def measures(self):
        terms = tuple(
            Term((i, i + 2), np.outer([share * n / 10 for n in TENTHS], (1.0, 0.5))) for i, share in enumerate(SHARES)
        )
        return {"flash_bytes": Measure((terms,), 0.0, 250.0)}

    def refine(self, chosen):
        return False


def spaces() -> list[Space]:
    cuts, few = Cuts(), Few()
    cuts.sites = tuple(replace(site, technique="prune_channels") for site in Cuts.sites)
    lost = cuts.losses(())
    both = loss_terms((*cuts.sites, *few.sites), [lost, [(0.001, 0.02)] * 2])
    return [
        Space("float32", (cuts,), loss_terms(cuts.sites, [lost]), Prices()),
        Space("int8", (cuts, few), both, Halved(), numbers=Integers()),
    ]


def foretold(*, scores: bool = True, **limits: float) -> dict[str, Forecast]:
    return forecasts(spaces(), Goal(Budget(**limits), BASELINE), scores=scores)


def advice(predicted: dict[str, Forecast] | None) -> list[Advice]:
    weighings = {name: weigh(CONVOLUTIONS, PI5, name) for name in FORMATS}
    return list(advise(CONVOLUTIONS, weighings, PI5, Budget(flash_bytes=50_000), predicted))


@pytest.mark.parametrize("flash", [900, 600, 260, 240, 180, 120, 60])
@pytest.mark.parametrize("drop", [None, 0.001])
def test_all_together_is_the_plan_that_is_built_first(flash, drop):
    goal = Goal(Budget(flash_bytes=flash, max_drop=drop), BASELINE)
    told = foretold(flash_bytes=flash, max_drop=drop)["combination"]
    assert told.recipe == next(rounds(spaces(), goal, None)).recipe
    assert told.enough == (drop is None or told.fall <= drop)


def test_each_family_does_what_is_its_own_and_nothing_else():
    told = foretold(flash_bytes=120)
    assert {type(step) for step in told["pruning"].recipe.steps} == {Cut}
    assert told["quantization"].recipe == Recipe((Integers(),))
    assert told["4-bit weights"].recipe == Recipe((Integers(4),))
    assert {type(step) for step in told["combination"].recipe.steps} == {Cut, Integers}
    assert not {"low-rank factorization", "compact architecture"} & told.keys()


def test_figures_and_losses_are_those_of_the_plan():
    told = foretold(flash_bytes=400)["pruning"]
    kept = told.recipe.steps[0].kept
    sizes = {both: 1000 * (SHARES[0] * both[0] + SHARES[1] * both[1]) / 10 for both in product(TENTHS, repeat=2)}
    lost = {both: (1 - both[0] / 10) ** 2 + 2 * (1 - both[1] / 10) ** 2 for both in sizes}
    assert told.figures["flash_bytes"] == pytest.approx(sizes[kept])
    assert told.loss == pytest.approx(lost[kept]) == min(lost[each] for each in sizes if sizes[each] <= 400 * 0.98)


def test_what_a_family_cannot_reach_is_said_with_how_near_it_comes():
    told = foretold(flash_bytes=100)
    assert [(need.limit.name, need.allowed) for need in told["quantization"].misses] == [("flash", 100)]
    assert told["quantization"].misses[0].needed == pytest.approx(250)
    assert "misses flash (allowed 100 B)" in str(told["quantization"])
    assert told["pruning"].misses[0].needed == pytest.approx(200)  # the least that is left


def test_a_score_that_falls_too_far_is_a_miss_though_the_size_fits():
    told = foretold(flash_bytes=240, max_drop=0.05)
    assert [need.limit.name for need in told["pruning"].misses] == ["score"]
    assert told["4-bit weights"].enough


def test_fewer_bits_are_left_out_where_8_are_enough():
    assert "4-bit weights" not in foretold(flash_bytes=260)


def test_a_limit_that_nothing_predicts_is_unknown_and_not_met():
    told = foretold(flash_bytes=260, energy_mj=1.0)["quantization"]
    assert told.unknown == ("energy",)
    assert "meets every limit that can be predicted; energy unknown until measured" in str(told)


def test_a_score_that_is_lost_is_not_told_in_points():
    assert "the score is lost before training" in str(foretold(flash_bytes=250)["pruning"])
    assert "lower" not in str(foretold(flash_bytes=250)["pruning"])


def test_without_a_score_in_shares_nats_are_told():
    told = foretold(flash_bytes=260, max_drop=0.01, scores=False)["quantization"]
    assert told.unknown == ("score",)
    assert "loss 0.002 nats" in str(told)


def test_what_is_predicted_to_be_enough_comes_first_and_the_rest_by_how_near_it_comes():
    told = advice(foretold(flash_bytes=120))
    ahead = [each.predicted for each in told if each.predicted]
    assert told[0].family == "combination"
    assert "none alone is predicted to be enough" in told[0].reason
    assert [each.order for each in ahead] == sorted(each.order for each in ahead)
    assert all(each.predicted for each in told[: len(ahead)])


def test_one_family_comes_before_all_together_where_it_loses_about_as_little():
    told = advice(foretold(flash_bytes=260))
    assert [each.family for each in told[:2]] == ["quantization", "combination"]
    assert "pruning and quantization alone are predicted to be enough" in told[1].reason


def test_families_keep_their_words_and_what_is_of_no_use_is_said():
    plain, told = advice(None), advice(foretold(flash_bytes=120))
    assert {each.family for each in told} >= FAMILIES
    reasons = {each.family: each.reason for each in plain if each.family != "combination"}
    assert reasons == {each.family: each.reason for each in told if each.family != "combination"}
    useless = next(each for each in told if each.family == "low-rank factorization")
    assert useless.expect == "predicted to be of no use for these limits"


def test_all_together_is_tried_by_pack_without_a_choice_of_techniques():
    told = {each.family: each for each in advice(foretold(flash_bytes=120))}
    assert told["combination"].command(("haversack", "pack", "t.py")) == "haversack pack t.py"
    assert told["combination"].to_json(())["predicted"]["enough"] is True
    assert told["distillation"].to_json(())["predicted"] is None


@given(seed=st.integers(0, 10**6), held=st.sets(st.integers(0, 3)))
def test_a_held_problem_is_the_problem_with_nothing_done_there(seed, held):
    random = np.random.default_rng(seed)
    options = tuple(random.integers(1, 4, 4).tolist())
    terms = tuple(Term((a, b), random.normal(size=(options[a], options[b]))) for a, b in ((0, 1), (2, 3), (3, 0)))
    problem = PlanProblem(options, terms, {"size": Measure((terms[:2], terms[1:]), 1.0, 2.0)})
    less = problem.holding(held)
    assert [count for site, count in enumerate(less.options) if site in held] == [1] * len(held)
    for plan in product(*map(range, less.options)):
        assert less.loss(plan) == problem.loss(plan)
        assert less.figures(plan) == problem.figures(plan)


def test_nothing_is_not_called_needed_where_the_network_was_measured_to_miss_a_limit_that_no_count_knows():
    weighings = {name: weigh(CONVOLUTIONS, PI5, name) for name in FORMATS}
    budget = Budget(flash_bytes=10_000_000, update_bytes=900)
    for update, needed in ((1200.0, False), (800.0, True)):
        baseline = replace(BASELINE.measurement, update_bytes=Figure(update, "host"))
        goal = Goal(Budget(update_bytes=900), replace(BASELINE, measurement=baseline))
        told = advise(CONVOLUTIONS, weighings, PI5, budget, forecasts(spaces(), goal, scores=True))
        assert told[0].family.startswith("nothing needed") == needed
