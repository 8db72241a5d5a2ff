"""Ranks are shared out among layers as well as trying everything would; some layers are left alone."""

import itertools

import pytest
import torch
from factor_layers import problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.calibration.patches import geometry_of
from haversack.model import Model
from haversack.techniques._exchange import Choice, allocated, frontier
from haversack.techniques._exchange.sites import sites
from haversack.techniques.factorize.ways import METHODS, by_rule, ladder

costs = st.tuples(st.floats(0.01, 0.19), st.floats(0.001, 1.0))
layer_costs = st.lists(costs, min_size=0, max_size=3)


def choices(pairs: list[tuple[float, float]]) -> list[Choice]:
    return [Choice("", (), ()), *(Choice("svd", (1,), (), -saved, loss) for saved, loss in pairs)]


def total(chosen, field: str) -> float:
    return sum(getattr(each, field) for each in chosen)


@settings(max_examples=100)
@given(st.lists(layer_costs, min_size=1, max_size=3), st.floats(0.3, 0.95))
def test_the_goal_is_reached_where_it_can_be_and_no_step_too_many_is_taken(layers, goal):
    lists = [choices(pairs) for pairs in layers]
    chosen = allocated(lists, goal)
    cheapest = 1 + sum(min(each.cost for each in one) for one in lists)
    cost = 1 + total(chosen, "cost")
    assert cost <= goal + 1e-6 or cost == pytest.approx(cheapest)
    if cheapest <= goal:
        best = min(total(each, "loss") for each in itertools.product(*lists) if 1 + total(each, "cost") <= goal + 1e-9)
        # A step of the hull is all that greed can lose.
        steps = [b.loss - a.loss for one in lists for a, b in itertools.pairwise(frontier(one))]
        assert total(chosen, "loss") <= best + max(steps, default=0) + 1e-9


@given(st.lists(costs, max_size=6))
def test_the_frontier_is_convex_and_nothing_lies_below_it(pairs):
    every = choices(pairs)
    hull = frontier(every)
    slopes = [(b.loss - a.loss) / (a.cost - b.cost) for a, b in itertools.pairwise(hull)]
    assert slopes == sorted(slopes)
    assert hull[0].loss == 0
    assert min(each.cost for each in every) == hull[-1].cost


def test_ladders_hold_multiples_and_fall():
    geometry = geometry_of(nn.Conv2d(64, 96, 3))
    for way in METHODS.values():
        ranks = [each.ranks for each in ladder([way], geometry, 16)]
        assert len(ranks) > 2
        assert ranks == sorted(ranks, reverse=True)
        assert all(rank % 16 == 0 for each in ranks for rank in each)


def test_rules_find_the_rank_that_is_there():
    torch.manual_seed(0)
    layer = nn.Linear(40, 30, bias=False)
    layer.weight.data = torch.randn(30, 3) @ torch.randn(3, 40) + 0.01 * torch.randn(30, 40)
    ways = [METHODS["svd"]]
    assert [each.ranks for each in by_rule(ways, problem(layer), 1, None)] == [(3,)]
    assert [each.ranks for each in by_rule(ways, problem(layer), 1, 0.999)] == [(3,)]
    assert [each.ranks for each in by_rule(ways, problem(layer), 4, 0.999)] == [(4,)]


class Curious(nn.Module):
    """Reads one layer's attributes, shares a weight, groups, and never runs a layer."""

    def __init__(self):
        super().__init__()
        self.read, self.grouped = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.plain, self.idle = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.pruned = nn.Linear(4, 4)

    def forward(self, x):
        x = self.plain(self.plain(self.grouped(self.read(x) / self.read.kernel_size[0])))
        return self.pruned(self.two(self.one(x.mean((2, 3)))))


def test_layers_that_cannot_be_swapped_are_left_alone_and_it_is_said_why():
    model = Model(Curious().eval(), (torch.randn(1, 4, 8, 8),), sparse=frozenset({"pruned.weight"}))
    found, left = sites(model)
    assert [(site.path, site.calls, site.input_shape) for site in found] == [("plain", 2, (1, 4, 8, 8))]
    assert left.keys() == {"read", "idle", "one", "two", "pruned"}
    assert left["read"] == "the network reads its attributes"
