"""One option a site under a budget: as good as trying all, and never over it."""

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack import allocate as module
from haversack.allocate import allocate


@dataclass(frozen=True)
class Priced:
    cost: float
    loss: float


numbers = st.integers(0, 64).map(lambda each: each / 64)
"""Whose sums are exact."""
sites = st.lists(st.lists(st.builds(Priced, numbers, numbers), min_size=1, max_size=4), min_size=1, max_size=5)
limits = st.integers(-32, 320).map(lambda each: each / 64)


def total(chosen, what: str) -> float:
    return sum(getattr(each, what) for each in chosen)


def least(offered, limit: float) -> float:
    """The least loss of all that fit, by trying them; that of the cheapest where none does."""
    every = list(product(*offered))
    cheapest = sum(min(each.cost for each in options) for options in offered)
    fitting = [each for each in every if total(each, "cost") <= max(limit, cheapest) + 1e-12]
    return min(total(each, "loss") for each in fitting)


@given(sites, limits)
def test_nothing_that_fits_loses_less(offered, limit):
    chosen = allocate(offered, limit)
    assert all(one in options for one, options in zip(chosen, offered, strict=True))
    assert total(chosen, "cost") <= max(limit, total(allocate(offered, -9), "cost")) + 1e-9
    assert total(chosen, "loss") == pytest.approx(least(offered, limit), abs=1e-9)


@given(sites, limits, numbers)
def test_a_larger_budget_never_loses_more(offered, limit, more):
    assert total(allocate(offered, limit + more), "loss") <= total(allocate(offered, limit), "loss") + 1e-9


@given(sites, limits, st.integers(-100, 100))
def test_what_all_options_of_a_site_cost_makes_no_difference(offered, limit, shift):
    shifted = [[Priced(each.cost + shift, each.loss) for each in offered[0]], *offered[1:]]
    assert total(allocate(shifted, limit + shift), "loss") <= total(allocate(offered, limit), "loss") + 1e-9


@settings(max_examples=300)
@given(sites, limits, st.sampled_from([1, 2, 3, 8]))
def test_with_few_sums_kept_it_loses_no_more_than_what_costs_a_little_less(offered, limit, states):
    whole, module._STATES = module._STATES, states
    try:
        chosen = allocate(offered, limit)
    finally:
        module._STATES = whole
    cheapest = sum(min(each.cost for each in options) for options in offered)
    room = max(0.0, limit - cheapest)
    assert total(chosen, "cost") <= max(limit, cheapest) + 1e-9
    assert total(chosen, "loss") <= least(offered, limit - room * len(offered) / states - 1e-9) + 1e-9


def test_losses_that_are_no_numbers_are_taken_last():
    options = [Priced(0.0, float("nan")), Priced(1.0, 2.0)]
    assert allocate([options, options], 1.0)[0].loss != allocate([options, options], 1.0)[1].loss
    assert allocate([options], 0.0) == [options[0]]
