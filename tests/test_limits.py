"""Budgets, and the table of limits that everything iterates."""

import math
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haversack.device import Device, find_device
from haversack.errors import BudgetError
from haversack.limits import LIMITS, Budget, Limit
from haversack.measurement import Conditions, Figure, Measurement


def test_each_limit_of_a_budget_has_one_row_and_a_figure_that_a_measurement_holds():
    assert sorted(limit.field for limit in LIMITS) == sorted(each.name for each in fields(Budget))
    assert {limit.figure or limit.field for limit in LIMITS} <= {each.name for each in fields(Measurement)}


def test_limits_of_one_name_stand_together_and_differ_in_nothing_that_is_judged_by_it():
    rows = [(limit.name, limit.measure, limit.figure, limit.show, limit.at_least) for limit in LIMITS]
    assert len({name for name, *_ in rows}) == len(set(rows))
    names = [name for name, *_ in rows]
    assert names == sorted(names, key=names.index)


@pytest.mark.parametrize(
    ("ours", "theirs", "limit"), [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (7, 5, 5)]
)
def test_the_tighter_of_budget_and_device_holds(ours, theirs, limit):
    device = Device("board", "A board", "c_source", flash_bytes=theirs, ram_bytes=theirs)
    within = Budget(flash_bytes=ours, ram_bytes=ours, latency_ratio=0.5, max_drop=0.01).within(device)
    assert within == Budget(flash_bytes=limit, ram_bytes=limit, latency_ratio=0.5, max_drop=0.01)


@pytest.mark.parametrize("limit", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize(
    "name", ["flash_bytes", "ram_bytes", "latency_ms", "latency_ratio", "energy_mj", "update_bytes"]
)
def test_a_limit_that_is_not_above_zero_is_refused(name, limit):
    with pytest.raises(BudgetError, match=name):
        Budget(**{name: limit})


@pytest.mark.parametrize("drop", [-0.01, math.nan])
def test_a_drop_below_zero_is_refused(drop):
    with pytest.raises(BudgetError, match="max_drop"):
        Budget(max_drop=drop)


@pytest.mark.parametrize(
    ("limits", "baseline", "floor"),
    [
        ({"score_at_least": 0.8}, None, 0.8),
        ({"max_drop": 0.05}, None, None),
        ({"score_at_least": 0.8, "max_drop": 0.05}, None, None),
        ({"max_drop": 0}, 0.9, 0.9),
        ({"score_at_least": 0.8, "max_drop": 0.05}, 0.9, 0.85),
        ({"score_at_least": 0.88, "max_drop": 0.05}, 0.9, 0.88),
    ],
)
def test_the_score_floor_is_the_higher_of_the_two_limits_and_unknown_where_one_of_them_is(limits, baseline, floor):
    assert list(Budget(**limits).bounds(baseline).values()) == [floor if floor is None else pytest.approx(floor)]
    assert Budget(**limits).limits_score
    assert not Budget(flash_bytes=1).limits_score


numbers = st.floats(1e-3, 1e3)
figures = st.builds(
    Figure,
    numbers,
    st.sampled_from(["estimated", "host", "board"]),
    st.none() | numbers,
    st.none() | numbers,
    st.booleans(),
)
measurements = st.fixed_dictionaries(
    {limit.figure or limit.field: st.none() | figures for limit in LIMITS}
    | {"flash_bytes": figures, "ram_bytes": figures, "conditions": st.just(Conditions("board", "onnx", 1, "here"))}
).map(lambda values: Measurement(**values))
budgets = st.fixed_dictionaries({limit.field: st.none() | numbers for limit in LIMITS}).map(
    lambda values: Budget(**values)
)
baselines = st.none() | numbers


@given(budgets, measurements, baselines)
def test_each_limit_asked_is_met_missed_or_unjudged_and_just_one_of_these(budget, measurement, baseline):
    judged = {each.limit.name: each for each in measurement.judged(budget, baseline)}
    missed = {miss.limit for miss in measurement.misses(budget, baseline)}
    assert judged.keys() == {limit.name for limit in budget.asked}
    assert len(judged) == len(measurement.judged(budget, baseline))
    for name, each in judged.items():
        # What is too close to a limit to call is not met.
        states = [each.state in ("missed", "too close"), each.state == "unjudged", each.state in ("met", "in part")]
        assert states.count(True) == 1
        assert states[0] == (name in missed) == (each.miss is not None)
        unknown = each.figure is None or (budget.max_drop is not None and baseline is None and name == "score")
        assert states[1] == unknown


@given(budgets, measurements, baselines, st.sampled_from(LIMITS), st.floats(0, 1))
def test_a_tighter_limit_never_turns_missed_into_met(budget, measurement, baseline, limit: Limit, share):
    allowed = budget.asked.get(limit)
    looser = {**{each.field: value for each, value in budget.asked.items()}}
    tight = 1e3 if allowed is None else allowed
    tight = tight / max(share, 1e-3) if limit.field == "score_at_least" else tight * max(share, 1e-3)
    before = {each.limit.name: each.state for each in measurement.judged(budget, baseline)}
    after = measurement.judged(Budget(**{**looser, limit.field: tight}), baseline)
    for each in after:
        assert not (before.get(each.limit.name) == "missed" and each.state in ("met", "in part"))
        assert not (before.get(each.limit.name) == "unjudged" and each.state in ("met", "in part"))


@pytest.mark.parametrize(
    ("budget", "on_host", "elsewhere"),
    [
        (Budget(flash_bytes=1000, max_drop=0.01), False, False),
        (Budget(latency_ms=1.0), True, False),
        (Budget(latency_ratio=0.5), True, True),
    ],
)
def test_a_time_is_taken_here_only_for_limits_that_are_held_against_it(budget, *, on_host, elsewhere):
    assert budget.is_timed_for(find_device("host")) == on_host
    assert budget.is_timed_for(find_device("raspberry-pi-zero-2w")) == elsewhere
