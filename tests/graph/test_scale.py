"""The size of weights before a batch norm."""

import copy

import pytest
import torch
from prunable_networks import build
from torch import Tensor, nn

from haversack.graph.quantized import inference, tensor_of
from haversack.graph.scale import as_large_as
from haversack.graph.settle import settle
from haversack.model import Model


def size(module: nn.Module, path: str) -> float:
    return float(module.get_submodule(path).weight.detach().square().mean().sqrt())


def outputs(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model.module(x)


@pytest.mark.parametrize("name", ["padded residual", "mobile"])
def test_settled_weights_regain_their_size_and_the_network_computes_the_same(name: str) -> None:
    module, x = build(name)
    original = Model(module, (x[:1],))
    network = inference(original)
    names = [weight for weight in network.meta["norms"] if weight in dict(module.named_parameters())]
    settled = settle(original, {each: tensor_of(network, each) for each in names})
    found = as_large_as(settled, original)
    assert len(names) > 4
    for each in (name.removesuffix(".weight") for name in names):
        assert size(settled.module, each) != pytest.approx(size(module, each), rel=1e-3)
        assert size(found.module, each) == pytest.approx(size(module, each), rel=1e-5)
    assert torch.allclose(outputs(found, x), outputs(original, x), rtol=1e-4, atol=1e-5)


class Twice(nn.Module):
    """A convolution that two batch norms read, one after the other, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.alone = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.alone(self.second(self.shared(self.first(self.shared(x)))))


def test_weights_whose_scale_does_not_cancel_out_keep_their_size() -> None:
    module = Twice().eval()
    small = copy.deepcopy(module)
    for each in small.parameters():
        each.data *= 0.5
    found = as_large_as(Model(small, (torch.randn(1, 3, 4, 4),)), Model(module, (torch.randn(1, 3, 4, 4),)))
    assert torch.equal(found.module.shared.weight, small.shared.weight)
    assert torch.equal(found.module.alone.weight, small.alone.weight)
    assert found.module is not small


def test_a_layer_of_zeros_is_left_alone() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    small = copy.deepcopy(module)
    small[0].weight.data.zero_()
    small[1].running_mean.fill_(3.0)
    found = as_large_as(Model(small, (torch.randn(1, 3, 4, 4),)), Model(module, (torch.randn(1, 3, 4, 4),)))
    x = torch.randn(2, 3, 4, 4)
    assert torch.allclose(found.module(x), small(x), atol=1e-5)
    assert torch.equal(found.module[1].running_mean, small[1].running_mean)
