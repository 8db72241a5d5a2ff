"""Parallel branches become one convolution that computes the same, whatever they are made of."""

from __future__ import annotations

import operator
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from prunable_networks import settled
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.channels.cost import channel_cost
from haversack.channels.groups import channel_groups
from haversack.graph.cost import cost
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.trace import trace
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.techniques.prune_weights.masks import prunable
from haversack.techniques.quantize_static.data_free import ranges_from_norms
from tests.sweep import count

aten = torch.ops.aten


class Sum(nn.Module):
    """Branches of one value, summed, and a rectifier."""

    def __init__(self, *branches: nn.Module, by: str = "chain") -> None:
        super().__init__()
        self.branches, self.by = nn.ModuleList(branches), by

    def forward(self, x: Tensor) -> Tensor:
        values = [branch(x) for branch in self.branches]
        return F.relu(sum(values) if self.by == "sum" else reduce(operator.add, values))


def layers(network: Folded) -> list[torch.fx.Node]:
    return [node for node in network.graph.nodes if str(node.target).startswith("aten.conv")]


def sums(network: Folded) -> list[torch.fx.Node]:
    return [node for node in network.graph.nodes if node.target is aten.add.Tensor]


def model_of(module: nn.Module, *shape: int) -> Model:
    return Model(settled(module), (torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)),))


def close(model: Model) -> Folded:
    """The merged graph, once it computes what the network does."""
    network = inference(model)
    with torch.no_grad():
        wanted = model.module(*model.example)
        torch.testing.assert_close(network(*model.example), wanted, rtol=1e-5, atol=1e-5)
    return network


def normed(layer: nn.Module) -> nn.Sequential:
    kind = {nn.Conv1d: nn.BatchNorm1d, nn.Conv2d: nn.BatchNorm2d, nn.Conv3d: nn.BatchNorm3d}[type(layer)]
    return nn.Sequential(layer, kind(layer.out_channels))


def repvgg(channels: int = 6, groups: int = 1) -> list[nn.Module]:
    return [
        normed(nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)),
        normed(nn.Conv2d(channels, channels, 1, groups=groups, bias=False)),
        nn.BatchNorm2d(channels),
    ]


@st.composite
def branched(draw):
    """Branches out of a large kernel, smaller ones around its middle, and the value itself."""
    draws = lambda *choices: draw(st.sampled_from(choices))  # noqa: E731
    kind, dims = draws((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv2d, 2), (nn.Conv3d, 3))
    channels, groups, stride, space = draws(2, 4, 6), draws("one", "two", "all"), draws(1, 1, 2), draws(1, 1, 2)
    shared = {"groups": {"one": 1, "two": 2, "all": channels}[groups], "stride": stride, "dilation": space}
    outputs = channels * draws(1, 1, 2)
    taps = [draws(1, 2, 3, 5) for _ in range(dims)]
    before = [draw(st.integers(0, (each - 1) // 2)) for each in taps]
    kernels = [(taps, [space * each for each in before])]
    for _ in range(draw(st.integers(1, 3))):
        # A kernel of fewer taps on both sides lies in the middle of the large one.
        cut = [draw(st.integers(0, place)) for place in before]
        less = zip(taps, before, cut, strict=True)
        kernels.append(([n - 2 * c for n, _, c in less], [space * (p - c) for p, c in zip(before, cut, strict=True)]))
    branches = []
    for size, padding in draw(st.permutations(kernels)):
        layer = kind(channels, outputs, size, padding=padding, bias=draws(True, False), **shared)
        branches.append(normed(layer) if draws(True, True, False) else layer)
    keeps = outputs == channels and stride == 1 and all(2 * p == n - 1 for n, p in zip(taps, before, strict=True))
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims]
    if keeps:
        branches += draws([], [norm(channels)])
    return Sum(*branches, by=draws("chain", "sum")), (channels, *[12] * dims)


FEW = settings(max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))


def check(drawn: tuple[nn.Module, tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    module, shape = drawn
    note(f"{module} on {shape}")
    model = model_of(module, *shape)
    network = close(model)
    assert len(layers(network)) == 1
    assert not sums(network)
    wanted = {name: torch.randn_like(network.tensor(name)) for name in network.writable}
    if wanted:
        again = inference(written_back(model, inference(model), wanted))
        for name, tensor in wanted.items():
            torch.testing.assert_close(again.tensor(name), tensor, rtol=1e-5, atol=1e-5)


@FEW
@given(branched())
def test_branches_become_one_layer_that_computes_and_takes_the_same(drawn):
    check(drawn)


@pytest.mark.slow
@pytest.mark.sweep
@settings(FEW, max_examples=count(40, 600))
@given(branched())
def test_many_branches_become_one_layer_that_computes_and_takes_the_same(drawn):
    check(drawn)


ALONE: dict[str, tuple[list[nn.Module], int]] = {
    "a plain shortcut, whose ones would widen the kernel's grid": ([nn.Conv2d(6, 6, 3, padding=1), nn.Identity()], 1),
    "something else": ([nn.Conv2d(6, 6, 3, padding=1), nn.AvgPool2d(3, 1, 1)], 1),
    "a kernel off the middle that sticks out": (
        [nn.Conv2d(6, 6, (1, 3), padding=(0, 1)), nn.Conv2d(6, 6, (3, 1), padding=(1, 0))],
        2,
    ),
    "other dilations": ([nn.Conv2d(6, 6, 3, padding=2, dilation=2), nn.Conv2d(6, 6, 3, padding=1)], 2),
    "other groups": ([nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1, groups=2)], 2),
    "another value": ([nn.Conv2d(6, 6, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 6, 1))], 2),
}


@pytest.mark.parametrize("name", ALONE)
def test_branches_that_do_not_fit_stay(name):
    branches, count = ALONE[name]
    network = close(model_of(Sum(*branches), 6, 8, 8))
    assert len(layers(network)) == count
    assert len(sums(network)) == 1


class ReadTwice(nn.Module):
    """A branch that something else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.near(x)
        return (near + self.far(x)) * torch.sigmoid(near)


class SharedNorm(nn.Module):
    """Two branches with one batch norm, which zeroing would take from both."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far, self.norm = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.near(x)) + self.norm(self.far(x))


@pytest.mark.parametrize("kind", [ReadTwice, SharedNorm])
def test_what_others_read_or_use_stays(kind):
    assert len(layers(close(model_of(kind(), 4, 8, 8)))) == 2


def test_a_branch_whose_batch_norm_learns_no_scale_stays():
    model = model_of(Sum(nn.Conv2d(4, 4, 3, padding=1), normed(nn.Conv2d(4, 4, 1))), 4, 8, 8)
    model.module.branches[1][1] = nn.BatchNorm2d(4, affine=False).eval()
    assert len(layers(close(model))) == 2


def test_other_summands_stay():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.block = nn.Conv2d(3, 6, 3, padding=1), Sum(*repvgg())

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.first(x))
            total = sum(branch(y) for branch in self.block.branches[:2])
            return torch.sigmoid(y) + total

    network = close(model_of(Residual(), 3, 8, 8))
    assert (len(layers(network)), len(sums(network))) == (2, 1)


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_block_of_repvgg_is_one_kernel_by_the_papers_formula(groups):
    module = Sum(*repvgg(groups=groups))
    network = inference(model_of(module, 6, 8, 8))
    dense, point, norm = module.branches
    kernel = torch.zeros(6, 6 // groups, 3, 3, dtype=torch.float64)
    for convolution, batch_norm in ((dense[0].weight, dense[1]), (point[0].weight, point[1])):
        scale = batch_norm.weight.double() / (batch_norm.running_var.double() + batch_norm.eps).sqrt()
        edge = (3 - convolution.shape[-1]) // 2
        kernel += scale.view(-1, 1, 1, 1) * F.pad(convolution.double(), [edge] * 4)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    for channel in range(6):
        kernel[channel, channel % (6 // groups), 1, 1] += scale[channel]
    torch.testing.assert_close(network.tensor("branches.0.0.weight"), kernel.float())


@pytest.mark.parametrize("exact", [True, False])
def test_a_layer_that_is_written_silences_its_branches_exactly(exact):
    model = model_of(Sum(*repvgg()), 6, 8, 8)
    wanted = torch.randint(-3, 4, (6, 6, 3, 3)).float()
    settled_model = written_back(model, inference(model), {"branches.0.0.weight": wanted}, exact=exact)
    again = inference(settled_model)
    torch.testing.assert_close(again.tensor("branches.0.0.weight"), wanted, rtol=1e-6, atol=0)
    assert torch.equal(again.tensor("branches.0.0.weight") == 0, wanted == 0)
    bias = inference(model).tensor("branches.0.0.bias")
    torch.testing.assert_close(again.tensor("branches.0.0.bias"), bias)


def test_no_zero_is_asked_of_a_sum_of_branches():
    module = nn.Sequential(Sum(*repvgg(3)), nn.Conv2d(3, 4, 1))
    assert list(prunable(model_of(module, 3, 8, 8))) == ["1.weight"]


def test_without_inputs_a_sum_ranges_as_its_batch_norms_say():
    model = model_of(nn.Sequential(*Sum(*repvgg()).branches[:1], Sum(*repvgg())), 6, 8, 8)
    network = inference(model)
    name = layers(network)[1].name
    found = ranges_from_norms(network, [name], model.example, {})[name]
    norms = [model.module[1].branches[0][1], model.module[1].branches[1][1], model.module[1].branches[2]]
    mean = sum(each.bias.detach() for each in norms)
    deviation = sum(each.weight.detach().square() for each in norms).sqrt()
    assert found.high == pytest.approx(float((mean + 6 * deviation).max()), rel=1e-4)
    assert found.low == pytest.approx(float((mean - 6 * deviation).min()), rel=1e-4)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_is_weighed_as_its_files_are(device):
    with torch.device(device):
        branched, plain = Sum(*repvgg()), normed(nn.Conv2d(6, 6, 3, padding=1, bias=False))
        found, wanted = (cost(trace(each, (torch.zeros(2, 6, 8, 8),))) for each in (branched, plain))
    assert (found.macs, found.parameters) == (wanted.macs, wanted.parameters)
    assert {each.path for each in found.layers} == {"branches.0.0", "branches.0.1"}


@pytest.mark.parametrize("of", ["macs", "parameters"])
def test_a_sum_of_branches_is_pruned_to_a_share_of_what_its_files_cost(of):
    module = nn.Sequential(*Sum(*repvgg()).branches[:1], nn.ReLU(), Sum(*repvgg()), nn.Conv2d(6, 4, 1))
    whole = trace(settled(module), (torch.zeros(2, 6, 8, 8),))
    groups = channel_groups(whole, module).groups
    model, found = channel_cost(whole, module, groups, of, 1), cost(whole)
    assert model.of(np.array([each.size for each in groups])) == getattr(found, of)
