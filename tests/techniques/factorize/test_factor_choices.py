"""Ranks that are worth trying, and layers that are left alone."""

import torch
from factor_layers import problem
from torch import nn

from haversack.calibration.patches import geometry_of
from haversack.model import Model
from haversack.techniques._exchange.sites import sites
from haversack.techniques.factorize.ways import METHODS, by_energy, ladder


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
    assert [each.ranks for each in by_energy(ways, problem(layer), 1, 0.999)] == [(3,)]
    assert [each.ranks for each in by_energy(ways, problem(layer), 4, 0.999)] == [(4,)]


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
