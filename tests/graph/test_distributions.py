import torch
from torch import nn

from haversack.graph import distributions
from haversack.graph.distributions import Noted, expected
from haversack.graph.inference import inference
from haversack.graph.pairs import IN_BLOCKS, pairs
from haversack.model import Model

BATCHES = [(part,) for part in torch.randn(300, 3, 8, 8, generator=torch.Generator().manual_seed(0)).split(100)]


def folded():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))
    return inference(Model(network.eval(), (BATCHES[0][0][:1],)))


def test_what_is_noted_while_something_else_runs_is_what_a_run_of_its_own_measures():
    network, seen = folded(), []
    noted = Noted(network, BATCHES)
    with torch.no_grad():
        noted.watch(network.module, BATCHES, ["relu"], lambda name, value: seen.append((name, len(value))))
    assert seen == [("relu", 100), ("relu", 100), ("relu", 56), ("relu", 44)]
    changed = {weight: network.tensor(weight) * 1.5 for weight in network.norms}
    alone, beside = (expected(network, changed, network.norms, inputs) for inputs in (BATCHES, noted))
    for weight, distribution in alone.items():
        assert torch.equal(beside[weight].mean, distribution.mean)
        assert torch.equal(beside[weight].variance, distribution.variance)


def test_without_a_run_nothing_is_noted_and_it_is_measured():
    network = folded()
    changed = {weight: network.tensor(weight) * 1.5 for weight in network.norms}
    assert Noted(network, BATCHES).distributions(network.norms) is None
    alone, beside = (expected(network, changed, network.norms, x) for x in (BATCHES, Noted(network, BATCHES)))
    assert all(torch.equal(beside[weight].mean, alone[weight].mean) for weight in alone)


def test_of_large_maps_some_places_tell_the_distribution_but_not_the_mean_that_biases_need():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)).eval()
    x = torch.randn(64, 3, 48, 48)
    graph = inference(Model(network, (x[:1],)))
    noted, name = Noted(graph, [(x,)]), next(iter(graph.norms))
    layer = graph.layer_of(name).name
    noted.watch(graph.module, noted.batches, [], lambda *_: None)
    found, values = noted.distributions([name])[name], network(x).detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean.float(), values.mean(1), atol=0.02, rtol=0)
    torch.testing.assert_close(found.variance.float(), values.var(1), atol=0, rtol=0.03)
    assert noted.means(graph, [layer], 64) is None


def test_a_network_of_large_values_is_measured_on_fewer_samples(monkeypatch):
    network, sizes = folded(), []
    monkeypatch.setattr(distributions, "_MOST_NUMBERS", 8 * 6 * 6 * 70)
    noted = Noted(network, BATCHES)
    noted.watch(network.module, BATCHES, ["relu"], lambda _, value: sizes.append(len(value)))
    assert sizes == [70, 30, 100, 100]


def test_pairs_in_blocks_give_what_torch_gives_to_the_bit():
    rounding, real = pairs.quantize_per_tensor.default, pairs.dequantize_per_tensor.default
    halves = torch.arange(-300, 300).view(2, -1) / 2
    for values in (torch.randn(5, 20000), halves, halves * 1e30, torch.tensor([[2.0**22 + 1, -(2.0**23) - 3]])):
        for low, high, dtype in ((0, 255, torch.uint8), (-128, 127, torch.int8), (-32768, 32767, torch.int16)):
            for scale, zero in ((1.0, 0), (0.0137, 3), (1e-8, 0)):
                settings = (scale, zero, low, high, dtype)
                integers = rounding(values, *settings)
                assert torch.equal(IN_BLOCKS[rounding](values, *settings), integers)
                assert torch.equal(IN_BLOCKS[real](integers, *settings), real(integers, *settings))
