from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from haversack.calibration.ranges import observe, value_grids, weight_grids
from haversack.calibration.rewrite import bits_by_weight
from haversack.graph.distributions import Noted
from haversack.graph.inference import inference
from haversack.graph.ops import points
from haversack.model import Model
from haversack.techniques.quantize_static import bias
from haversack.techniques.quantize_static.bias import corrected_biases


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.second, self.bare = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 6, 1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.relu(self.bare(F.relu(self.second(x)) + x))
        return self.head(x.mean((2, 3)))


def prepared(seed: int, bits: int):
    torch.manual_seed(seed)
    x = torch.randn(64, 3, 8, 8)
    model = Model(Net().eval(), (x[:1],))
    network = inference(model)
    batches = [(part,) for part in x.split(16)]
    values = value_grids(network, observe(network, points(network.graph), batches, counted=False), "min_max", "uint8")
    grids = {**values, **weight_grids(network, values, bits_by_weight(network, bits, {}))}
    return x, network, grids, corrected_biases(network, grids, batches)


@settings(max_examples=6)
@given(st.integers(0, 99), st.sampled_from([3, 4, 8]))
@torch.no_grad()
def test_mean_outputs_become_those_of_the_float_network(seed, bits):
    x, network, grids, biases = prepared(seed, bits)
    wanted = network(x).mean(0)
    before = network.lowered(grids)(x).mean(0) - wanted
    after = network.with_tensors(biases).lowered(grids)(x).mean(0) - wanted
    step = grids["linear"].scale[0]
    assert after.abs().max() <= max(float(before.abs().max()), step)
    assert after.abs().max() < step


def test_layers_without_a_bias_of_their_own_are_left_out():
    _, _, _, biases = prepared(0, 4)
    assert biases.keys() == {"first.bias", "second.bias", "head.bias"}


@torch.no_grad()
def test_layers_that_stay_float_and_names_that_may_not_be_written_are_left_out():
    x, network, grids, _ = prepared(0, 4)
    some = {name: grid for name, grid in grids.items() if name != "second.weight"}
    free = {name: tensor for name, tensor in network.own.items() if not name.startswith("head.")}
    assert corrected_biases(replace(network, own=free), some, [(x,)]).keys() == {"first.bias"}


@torch.no_grad()
def test_mean_outputs_that_were_noted_while_ranges_were_read_give_the_same_biases(monkeypatch):
    x, network, grids, biases = prepared(1, 4)
    noted = Noted(network, [(part,) for part in x.split(16)])
    observe(network, points(network.graph), noted.batches, run=noted.watch)
    monkeypatch.setattr(bias, "_means", None)  # so the float network does not run again
    for name, each in corrected_biases(network, grids, noted).items():
        torch.testing.assert_close(each, biases[name], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_mean_outputs_of_another_network_are_not_taken():
    x, network, grids, biases = prepared(1, 4)
    other = Noted(prepared(2, 4)[1], [(x,)])
    observe(other.folded, points(other.folded.graph), other.batches, run=other.watch)
    for name, each in corrected_biases(network, grids, other).items():
        torch.testing.assert_close(each, biases[name], atol=1e-5, rtol=1e-4)
