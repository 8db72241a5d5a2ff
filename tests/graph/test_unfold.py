"""Weights chosen on the folded graph, back in front of batch norms that go on normalizing."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import RecipeError
from haversack.graph.inference import inference, tensor_of
from haversack.graph.settle import settleable
from haversack.graph.unfold import unfold
from haversack.model import Model


class Net(nn.Module):
    """Layers with each kind of batch norm, with and without biases."""

    def __init__(self):
        super().__init__()
        self.a, self.a_norm = nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.b, self.b_norm = nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6, affine=False)
        self.c, self.c_norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.d = nn.Linear(5, 3, bias=False)

    def forward(self, x):
        x = F.relu(self.a_norm(self.a(x)))
        x = F.relu(self.b_norm(self.b(x)))
        return self.d(F.relu(self.c_norm(self.c(x.mean((2, 3))))))


def model() -> Model:
    torch.manual_seed(0)
    module = Net().train()
    for tensor in (module.a_norm.weight, module.c_norm.weight, module.a_norm.bias, module.c_norm.bias):
        nn.init.uniform_(tensor, -2, 2)
    for _ in range(20):
        module(torch.randn(64, 2, 8, 8) + 0.5)
    return Model(module.eval(), (torch.randn(1, 2, 8, 8),))


def changed(model: Model) -> dict[str, torch.Tensor]:
    """Other numbers, a third of them zero."""
    network, generator = inference(model), torch.Generator().manual_seed(1)
    found = {}
    for name in settleable(model, network):
        tensor = tensor_of(network, name)
        found[name] = torch.randn(tensor.shape, generator=generator) * (
            torch.rand(tensor.shape, generator=generator) > 0.3
        )
    return found


def test_the_folded_graph_holds_what_was_given_and_zeros_are_exact():
    before = model()
    wanted = changed(before)
    assert {"a.weight", "a.bias", "b.bias", "c.weight", "d.weight"} <= wanted.keys()
    after = unfold(before, wanted)
    network = inference(after)
    for name, tensor in wanted.items():
        torch.testing.assert_close(tensor_of(network, name), tensor, rtol=1e-4, atol=1e-5)
        if name.endswith("weight"):
            assert torch.equal(tensor_of(network, name) == 0, tensor == 0)


def test_what_is_not_given_stays():
    before = model()
    after = unfold(before, {"c.weight": changed(before)["c.weight"]})
    ours, theirs = inference(after), inference(before)
    for name in ("a.weight", "a.bias", "b.weight", "c.bias"):
        torch.testing.assert_close(tensor_of(ours, name), tensor_of(theirs, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(after.module.c_norm.weight, before.module.c_norm.weight)


def test_the_same_numbers_change_nothing_in_training_either():
    before = model()
    network = inference(before)
    after = unfold(before, {name: tensor_of(network, name) for name in settleable(before, network)})
    x = torch.randn(16, 2, 8, 8)
    with torch.no_grad():
        for mode in (False, True):
            torch.testing.assert_close(after.module.train(mode)(x), before.module.train(mode)(x), rtol=1e-3, atol=1e-4)


def test_a_channel_that_its_norm_drops_is_no_obstacle():
    before = model()
    with torch.no_grad():
        before.module.a_norm.weight[2] = 0
    after = unfold(before, changed(before))
    assert all(tensor.isfinite().all() for tensor in after.module.state_dict().values())


def test_names_that_are_not_there_are_refused():
    with pytest.raises(RecipeError, match="cannot be changed"):
        unfold(model(), {"nobody.weight": torch.zeros(1)})
