"""Zeros before convolutions become part of them, and nothing else does."""

import pytest
import torch
from quantizable_networks import Does
from torch import nn
from torch.nn import functional as F

from haversack.graph.fold import fold
from haversack.graph.trace import trace

MAPS = {1: (3, 9), 2: (3, 9, 8), 3: (3, 5, 6, 7)}


def operations(function, *layers, shape=MAPS[2]):
    """The folded graph's operations, checked to compute what the network computes."""
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    network = Does(function, *layers).eval()
    graph = fold(trace(network, (x[:1],)))
    torch.testing.assert_close(graph(x), network(x), rtol=1e-4, atol=1e-5)
    return [str(node.target).split(".")[1] for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(3, 4, 3, 2), nn.Conv2d(3, 4, (3, 2), padding=(1, 0)), nn.Conv3d(3, 4, 3, dilation=2, padding=1)]
)
def test_a_convolution_takes_in_what_pads_both_sides_alike(layer):
    dims = layer.weight.dim() - 2
    pads = [side for dim in range(dims) for side in [1 + dim] * 2]
    assert operations(lambda x, layer: layer(F.pad(x, pads)), layer, shape=MAPS[dims]) == [f"conv{dims}d"]


def test_a_convolution_with_a_batch_norm_behind_and_a_pad_before_is_one_operation():
    layers = nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    assert operations(lambda x, layer: layer(x), nn.Sequential(*layers)) == ["conv2d"]


@pytest.mark.parametrize(
    ("pads", "settings"),
    [
        ((0, 1, 0, 1), {}),
        ((1, 1, 1, 1), {"value": 0.5}),
        ((1, 1, 1, 1), {"mode": "reflect"}),
        ((-1, -1, 0, 0), {}),
        ((0, 0, 0, 0, 1, 1), {}),
    ],
)
def test_other_borders_stay_operations_of_their_own(pads, settings):
    layer = nn.Conv2d(5 if len(pads) == 6 else 3, 4, 3)
    found = operations(lambda x, layer: layer(F.pad(x, pads, **settings)), layer)
    assert found == ["pad", "conv2d"]


def test_a_pad_that_others_read_stays_for_them():
    def both(x, layer):
        padded = F.pad(x, (1, 1, 1, 1))
        return layer(padded).sum() + padded.sum()

    assert operations(both, nn.Conv2d(3, 4, 3)).count("pad") == 1


def test_a_map_without_a_batch_keeps_its_pad():
    def one(x, layer):
        return layer(F.pad(x[0], (1, 1)))

    assert "pad" in operations(one, nn.Conv2d(3, 4, 3))


@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_pools_take_in_no_zeros(pool):
    assert operations(lambda x: pool(F.pad(x, (1, 1, 1, 1)), 3)) == ["pad", pool.__name__]
