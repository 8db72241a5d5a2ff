"""The contest of planner and samplers: budgets end it, nothing is tried twice, and shares are by definition."""

import itertools
import json
import math
import sys
import time
from dataclasses import replace

import numpy as np
import planner_against
import planner_predicted
import planner_rivals
import pytest
from planner_plans import levels, planned
from planner_space import possible
from planner_truth import Kept, Tried, contest

from haversack.choices import Bits, Option, Site
from haversack.errors import HaversackError
from haversack.measurement import Conditions, Fidelity, Figure, Measurement
from haversack.plan.problem import Measure, Term
from haversack.plan.space import FORBIDDEN, Space

WHOLE = (-0.1, 1000.0, 1.0)


def tried(*figures, seconds=1.0, plan=(0,)):
    """What a plan gave: score, bytes and ratio."""
    return Tried(plan, *figures, seconds)


def counting():
    """A method that asks for plans of one site, one after the other."""
    for number in itertools.count():
        assert (yield (number,)).plan == (number,)


@pytest.mark.parametrize(("most", "seconds", "count"), [(5, 1000, 5), (100, 10, 10), (100, -1, 0)])
def test_a_contest_ends_with_its_plans_or_its_time(most, seconds, count):
    plans = contest(counting(), lambda plan: tried(0.5, 1, 1, plan=plan), most, seconds)
    assert [each.plan for each in plans] == [(number,) for number in range(count)]


def test_a_method_that_has_no_more_plans_ends_the_contest():
    def one():
        yield (0,)

    assert len(contest(one(), lambda plan: tried(0.5, 1, 1, plan=plan), 9, 9)) == 1


def test_the_time_that_a_method_thinks_is_its_own():
    def slow():
        while True:
            time.sleep(0.02)
            yield (0,)

    assert len(contest(slow(), lambda _: tried(0.5, 1, 1, seconds=0), 100, 0.05)) <= 3


def test_what_was_tried_is_known_after_a_run_was_cut_short(tmp_path):
    kept = Kept(tmp_path / "tried.jsonl")
    first, second = tried(0.5, 10, 0.5, plan=(1, 2)), tried(0.25, 5, 0.75, plan=(0, 1))
    kept.add(first)
    with kept.file.open("a") as lines:
        lines.write(json.dumps({"plan": [3]})[:-2])
    assert kept.read() == {(1, 2): first}
    kept.add(second)
    assert kept.read() == {(1, 2): first, (0, 1): second}


def test_the_share_is_against_the_rival_that_does_best_and_none_is_reached_by_less():
    begin, good, better = tried(0.5, 500, 0.5), tried(0.9, 500, 0.5), tried(0.9, 250, 0.5)
    lists = {"planner": [begin, good, better], "nsga2": [begin] * 8, "tpe": [begin, begin, good, begin]}
    figures = planner_against.compared(lists | {"random": [begin] * 2}, WHOLE)
    assert figures["against.share_of_nsga2"] == 1 / 8
    assert figures["against.share_of_tpe"] == 2 / 4
    assert figures["against.share_of_evaluations"] == 1 / 2  # the random one's, too
    assert figures["against.planner_hypervolume"] == pytest.approx(0.8 * 0.75 * 0.5 / 0.9)
    assert figures["against.hypervolume_ratio"] == pytest.approx(0.75 / 0.5)
    lost = planner_against.compared({**lists, "planner": [begin], "random": [begin]}, WHOLE)
    assert lost["against.share_of_evaluations"] == math.inf
    assert lost["against.hypervolume_ratio"] == pytest.approx(0.4 / 0.8)


def test_levels_begin_with_the_corners_and_leave_no_point_out():
    points = list(levels())
    assert set(points[:3]) == {(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)}
    assert len(points) == len(set(points)) == 17**2 - 1


def test_a_rival_begins_with_the_plan_that_changes_nothing_and_stays_within_the_options():
    pytest.importorskip("optuna")
    for name in planner_rivals.RIVALS:
        method = planner_rivals.rival(name, [2, 3])
        plan = next(method)
        assert plan == (0, 0)
        for _ in range(30):
            plan = method.send(tried(0.5, sum(plan), 0.5, plan=plan))
            assert plan[0] < 2
            assert plan[1] < 3


def test_without_optuna_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(HaversackError, match="pip install optuna"):
        next(planner_rivals.rival("tpe", [2]))


def sample(pieces, ratio, loss=1.0, lost=1.0):
    """A plan that is predicted to be a tenth larger than it is."""
    conditions = Conditions("host", "onnx", 1, "here")
    measured = Measurement(Figure(100, "host"), Figure(0, "host"), None, conditions)
    true = replace(measured, latency_ratio=Figure(ratio, "host"), fidelity=Fidelity(1.0, 0.0, 1, divergence=lost))
    return planner_predicted.Sample(pieces, 110.0, loss, true)


def test_errors_are_shares_of_what_is_true_and_the_samples_that_were_fitted_are_no_witnesses():
    errors = planner_predicted.Errors()
    errors.add([sample(1, 1), sample(2, 2)], [sample(3, 3, 1, 1), sample(4, 5, 2, 9), sample(4, 4.1, 3, 10)])
    assert errors.latency == pytest.approx([0, -0.2, 4 / 4.1 - 1])
    assert errors.within == pytest.approx(2 / 3)
    assert errors.spearman == pytest.approx(1)
    assert errors.flash == pytest.approx([0.1] * 5)


class Nothing:
    """A technique whose steps are not built here."""

    sites = tuple(
        Site(
            f"layer{number}",
            "made_up",
            (Option("as it is"), *(Option(f"{bits} bits", Bits("x", bits)) for bits in (8, 4))),
        )
        for number in range(4)
    )

    def step(self, _):
        return None


class Priced:
    """Each option saves bytes and time, sites differently."""

    def measures(self):
        bytes_, times = (
            [Term((site,), np.array([4.0, 2.0, 1.0]) * (site + add)) for site in range(4)] for add in (1, 9)
        )
        return {"flash_bytes": Measure((tuple(bytes_),)), "latency_ratio": Measure((tuple(times),))}

    def refine(self, _):
        return False


def test_the_planner_s_plans_begin_with_nothing_come_once_and_reach_what_is_worth_it():
    losses = tuple(Term((site,), np.array([0.0, 0.1, 0.4])) for site in range(4))
    space = Space("int8", (Nothing(),), losses, Priced())

    def truth(plan):
        figures = space.problem.figures(plan)
        return tried(0.5, figures["flash_bytes"], figures["latency_ratio"], plan=plan, seconds=0.0)

    asked = [each.plan for each in contest(planned(space, sample(1, 1).true), truth, 1000, 1000.0)]
    assert asked[0] == (0, 0, 0, 0)
    assert len(asked) == len(set(asked)) > 8
    assert (2, 2, 2, 2) in asked


def test_of_choices_that_exclude_each_other_the_later_one_goes():
    """Three of four random plans of ResNet-20 were refused: samplers would have been beaten by that alone."""
    excluding = np.zeros((3, 3))
    excluding[1:, 1:] = FORBIDDEN
    space = Space("int8", (Nothing(),), (Term((2, 0), excluding),), Priced())
    assert possible(space, (1, 1, 2, 1)) == (0, 1, 2, 1)
    assert possible(space, (1, 1, 0, 1)) == (1, 1, 0, 1)
    assert possible(space, (0, 1, 2, 1)) == (0, 1, 2, 1)
