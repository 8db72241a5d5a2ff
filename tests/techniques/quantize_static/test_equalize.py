from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from haversack.graph.inference import inference
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.techniques.quantize_static.equalize import equalize


def model_of(module: nn.Module, *shape: int) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(5, *shape)
    return Model(module.eval(), (x[:1],)), x


def unequal(*layers: nn.Module) -> nn.Module:
    """Layers whose channels differ a thousandfold."""
    network = nn.Sequential(*layers)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
                factors = torch.logspace(-2, 1, len(layer.weight))
                layer.weight *= factors.view(-1, *[1] * (layer.weight.dim() - 1))
    return network


def spans(network, first: str, second: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest weight of each channel on both sides."""
    ours, theirs = (network.tensor(name) for name in (first, second))
    return ours.abs().flatten(1).amax(1), theirs.abs().transpose(0, 1).flatten(1).amax(1)


BETWEEN = {
    "relu": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.1),
    "max pool": nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    "average pool": nn.Sequential(nn.AvgPool2d(2), nn.ReLU()),
    "zero padding": nn.Sequential(nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1))),
    "nothing": nn.Identity(),
}


@pytest.mark.parametrize("name", BETWEEN)
@torch.no_grad()
def test_channels_span_alike_on_both_sides_and_the_network_computes_the_same(name):
    model, x = model_of(unequal(nn.Conv2d(3, 6, 3, padding=1), BETWEEN[name], nn.Conv2d(6, 4, 3)), 3, 8, 8)
    network = inference(model)
    found = equalize(network)
    changed = network.with_tensors(found.tensors)
    ours, theirs = spans(changed, "0.weight", "2.weight")
    free = found.tensors["0.bias"].abs() < found.tensors["0.bias"].abs().max() * 0.99
    torch.testing.assert_close(ours[free], theirs[free], rtol=0.01, atol=0)
    assert not torch.allclose(ours, spans(network, "0.weight", "2.weight")[0])
    torch.testing.assert_close(changed(x), network(x), rtol=1e-4, atol=1e-5)
    assert (
        written_back(model, inference(model), found.tensors).module(x).allclose(model.module(x), rtol=1e-4, atol=1e-5)
    )


@pytest.mark.parametrize(
    "between",
    [nn.ReLU6(), nn.Sigmoid(), nn.GELU(), nn.ConstantPad2d(1, 0.5), nn.ReLU(inplace=False)],
    ids=["relu6", "sigmoid", "gelu", "padding with a number", "two readers"],
)
@torch.no_grad()
def test_layers_with_anything_else_between_them_are_left_alone(between):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.between, self.second = nn.Conv2d(3, 4, 3, padding=1), between, nn.Conv2d(4, 4, 3)

        def forward(self, x):
            x = self.between(self.first(x))
            y = self.second(x)
            return y + x[:, :, 1:-1, 1:-1] if isinstance(self.between, nn.ReLU) else y

    model, _ = model_of(Net(), 3, 8, 8)
    network = inference(model)
    assert not equalize(network).tensors


@torch.no_grad()
def test_a_flattened_map_scales_all_features_of_its_channel():
    model, x = model_of(
        unequal(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)), 3, 8, 8
    )
    network = inference(model)
    found = equalize(network)
    before, after = (each.view(5, 4, 9) for each in (network.tensor("4.weight"), found.tensors["4.weight"]))
    factors = after / before
    torch.testing.assert_close(factors, found.divisors["conv2d"].float().view(1, 4, 1).expand(5, 4, 9))
    torch.testing.assert_close(network.with_tensors(found.tensors)(x), network(x), rtol=1e-4, atol=1e-5)


def test_what_may_not_be_written_or_is_shared_stays():
    layer = nn.Linear(4, 4)
    model, _ = model_of(nn.Sequential(layer, nn.ReLU(), layer), 4)
    network = inference(model)
    assert not equalize(network).tensors
    model, _ = model_of(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), 4)
    first = {name: tensor for name, tensor in inference(model).own.items() if name.startswith("0.")}
    assert not equalize(replace(inference(model), own=first)).tensors


@torch.no_grad()
def test_a_channel_of_vanishing_weights_does_not_blow_up_its_bias():
    model, _ = model_of(unequal(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), 3, 4, 4)
    model.module[0].weight[1] = 1e-12
    model.module[0].weight[2] = 0
    model.module[0].bias[:] = torch.tensor([1.0, 5.0, 2.0, -3.0])
    network = inference(model)
    found = equalize(network)
    assert all(tensor.isfinite().all() for tensor in found.tensors.values())
    assert found.tensors["0.bias"].abs().max() <= 5.0 + 1e-4


class Chain(nn.Module):
    """A convolution, a grouped one, a pointwise one and a classifier."""

    def __init__(self, groups: int, width: int, *, pooled: bool):
        super().__init__()
        channels = groups * width
        self.layers = unequal(
            nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, groups=groups),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 5, 1),
        )
        self.head, self.pooled = nn.Linear(5, 3) if pooled else nn.Linear(5 * 16, 3), pooled

    def forward(self, x):
        x = F.relu(self.layers(x))
        return self.head(x.mean((2, 3)) if self.pooled else x.flatten(1))


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 3), st.booleans(), st.integers(0, 99))
@torch.no_grad()
def test_any_chain_computes_the_same_after_equalization(groups, width, pooled, seed):
    torch.manual_seed(seed)
    model, x = model_of(Chain(groups, width, pooled=pooled), 3, 6, 6)
    network = inference(model)
    found = equalize(network)
    assert len(found.divisors) == 3
    torch.testing.assert_close(network.with_tensors(found.tensors)(x), network(x), rtol=1e-3, atol=1e-4)
