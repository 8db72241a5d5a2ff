"""The family for signals: its layers, the lengths that it takes, and what later steps make of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from haversack import zoo
from haversack.errors import RecipeError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.tflite import LITERT
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.zoo.ds_cnn_1d import DepthwiseSeparable1d, DsCnn1d


def settled(**settings: float) -> nn.Module:
    """A network whose batch norms have seen noise."""
    torch.manual_seed(0)
    network = DsCnn1d(channels=3, outputs=4, **settings)
    for _ in range(20):
        network(torch.randn(32, 3, 64))
    return network.eval()


def noise() -> Task:
    x = torch.randn(64, 3, 64, generator=torch.Generator().manual_seed(0))
    return Task(train=lambda: [(x, x[:, 0].argmax(1) // 16)], calibrate=lambda: [x], score=lambda _: 0.0)


@pytest.mark.parametrize("length", [16, 17, 100, 1001])
@pytest.mark.parametrize("channels", [1, 6, 9])
def test_signals_of_any_channels_and_of_16_points_and_more_are_taken(length, channels):
    outputs = DsCnn1d(channels=channels, outputs=5)(torch.randn(2, channels, length))
    assert outputs.shape == (2, 5)


def test_parameters_and_work_are_those_of_the_formula():
    wide, kernel, blocks, length = 64, 9, 4, 100
    found = cost(trace(DsCnn1d(channels=6, outputs=5), (torch.zeros(2, 6, length),)))
    stem, block, head = 6 * wide * kernel, wide * kernel + wide * wide, wide * 5
    assert found.macs == stem * length // 2 + blocks * block * length // 4 + head
    assert found.parameters == stem + blocks * block + (1 + 2 * blocks) * 2 * wide + head + 5


@pytest.mark.parametrize("downsampling", [1, 2, 4, 32])
def test_the_last_map_is_shorter_by_the_downsampling(downsampling):
    network = DsCnn1d(downsampling=downsampling)
    assert network.blocks(network.stem(torch.zeros(2, 1, 64))).shape[2] == 64 // downsampling


def test_the_default_settings_fit_every_depth():
    counts = [sum(each.numel() for each in DsCnn1d(depth=depth).parameters()) for depth in (0.1, 0.5, 1.0, 2.0)]
    assert counts == sorted(set(counts))


def test_shrinking_averages_neighbours_in_time():
    network, x = settled(shrink=4), torch.randn(2, 3, 64)
    assert torch.equal(network(x), network.head(network.blocks(network.stem(x.view(2, 3, 16, 4).mean(3)))))


def test_a_signal_that_is_too_short_says_how_long_it_must_be():
    with pytest.raises(RecipeError, match="an input of 7 is too small: this network needs 8"):
        DsCnn1d(shrink=2)(torch.zeros(2, 1, 7))


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"downsampling": 3}, "power of two up to 32"), ({"channels": 0}, "channels is 0"), ({"width": -1.0}, "width")],
)
def test_sizes_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        DsCnn1d(**settings)


def test_a_block_of_the_family_is_found_by_name():
    assert zoo.kind("ds_cnn_1d.DepthwiseSeparable1d") is DepthwiseSeparable1d
    assert zoo.family("ds_cnn_1d").dimensions == 1


def test_a_batch_teaches_every_parameter():
    network = settled(width=0.25).train()
    network(torch.randn(8, 3, 64)).square().sum().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in network.parameters())


def test_channels_are_pruned_to_the_share_that_was_asked():
    network, example = settled(width=0.5, depth=0.5), (torch.randn(1, 3, 64),)
    pruned = PruneChannels(keep=0.7, importance="l1", correct="statistics", epochs=0).apply(
        Model(network, example), noise()
    )
    before, after = (cost(trace(each, example)).macs for each in (network, pruned.module))
    assert 0.5 * before < after <= 0.7 * before


def test_the_int8_file_agrees_with_the_network():
    network, task = settled(width=0.5, depth=0.5), noise()
    x = task.calibration()[0][0]
    content = LITERT.write(lower(QuantizeStatic(activations="int8").apply(Model(network, (x[:1],)), task)))
    wanted = network(x).detach()
    assert (host.load(content)(x) - wanted).abs().mean() < 0.1 * wanted.std()
