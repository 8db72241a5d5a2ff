"""Learned steps have LSQ's gradients, and the network that trains computes what the lowered graph computes."""

import math
import time
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.blocks import round_to_steps
from haversack.graph.inference import inference
from haversack.graph.ops import points, sharing
from haversack.grid import Grid, affine, symmetric
from haversack.model import Model
from haversack.techniques.quantize_training.fake import Rounding, fake_quantized


def settled(module: nn.Module) -> nn.Module:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return module.eval()


class Everything(nn.Module):
    """Padding, pools of both kinds, a sum, a concatenation, a gate, groups and linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.point = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.gate, self.join, self.head = nn.Linear(8, 8), nn.Conv2d(20, 6, 1), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.point(F.relu6(self.depthwise(x)))
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(x, 1).flatten(1)))[:, :, None, None]
        x = F.max_pool2d(F.relu(x + y), 2)
        x = torch.cat([F.pad(x[:, ::2], (0, 0, 0, 0, 1, 1), value=0.5), F.avg_pool2d(F.relu(y), 2), x[:, :6]], 1)
        return self.head(F.avg_pool2d(F.relu(self.join(x)), 2).flatten(1))


def everything() -> tuple[Model, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    return Model(settled(Everything()), (x[:1],)), x


def grids_of(network, x: Tensor, bits: int) -> dict[str, Grid]:
    """Grids that clip a little, and one for each group that shares."""
    grids = {name: affine(-1.5, 2.0, signed=True) for name in points(network.graph)}
    for node in network.graph.find_nodes(op="placeholder"):
        grids[node.name] = affine(float(x.min()), float(x.max()), signed=True)
    for name in (layer.weight for layer in network.layers()):
        grids[name] = symmetric(network.tensor(name).abs().flatten(1).amax(1) * 0.8, axis=0, bits=bits)
    return grids


def by_definition(x, step, low, high):
    """LSQ's equations 1 to 3, number by number."""
    integers = [min(max(round(each / step), low), high) for each in x]
    slopes = [
        low if each / step <= low else high if each / step >= high else integer - each / step
        for each, integer in zip(x, integers, strict=True)
    ]
    return [integer * step for integer in integers], slopes


@settings(max_examples=40)
@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20),
    st.floats(0.03125, 2, width=32),
    st.sampled_from([(-7, 7), (0, 15), (-1, 1), (-100, 155)]),
    st.integers(0, 2**31),
)
def test_values_and_gradients_are_those_of_the_definition(numbers, step, ends, seed):
    numbers = [each for each in numbers if 0.01 < (each / step) % 1 < 0.49 or 0.51 < (each / step) % 1 < 0.99]
    x = torch.tensor(numbers, requires_grad=True)
    steps = torch.tensor(step, requires_grad=True)
    weights = torch.randn(len(numbers), generator=torch.Generator().manual_seed(seed))
    rounded = round_to_steps(x, steps, *ends)
    (rounded * weights).sum().backward()
    values, slopes = by_definition(numbers, step, *ends)
    torch.testing.assert_close(rounded.detach(), torch.tensor(values))
    torch.testing.assert_close(steps.grad, (torch.tensor(slopes) * weights).sum(), rtol=1e-3, atol=1e-3)
    inside = torch.tensor([ends[0] < each / step < ends[1] for each in numbers], dtype=torch.bool)
    torch.testing.assert_close(x.grad, torch.where(inside, weights, torch.zeros(())))


def test_where_numbers_are_clipped_the_step_s_gradient_is_the_finite_difference():
    """Rounding has no slope of its own, so only clipped numbers can be held against differences."""
    x, weights = torch.tensor([3.1, -4.2, 9.0, 2.5]), torch.tensor([1.0, -2.0, 0.5, 3.0])
    step = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)

    def loss(size: Tensor) -> Tensor:
        return (round_to_steps(x.double(), size, -8, 7).double() * weights).sum()

    loss(step).backward()
    numeric = (loss(step.detach() + 1e-3) - loss(step.detach() - 1e-3)) / 2e-3
    assert float(step.grad) == pytest.approx(float(numeric), rel=1e-4)


def test_each_channel_s_step_has_its_own_gradient():
    weight = torch.randn(4, 3, 3, 3)
    steps = torch.tensor([0.1, 0.2, 0.3, 0.05]).view(4, 1, 1, 1).requires_grad_()
    weights = torch.randn_like(weight)
    (round_to_steps(weight, steps, -7, 7) * weights).sum().backward()
    for channel in range(4):
        step = steps.detach()[channel, 0, 0, 0].requires_grad_()
        (round_to_steps(weight[channel], step, -7, 7) * weights[channel]).sum().backward()
        torch.testing.assert_close(steps.grad[channel, 0, 0, 0], step.grad)


def test_gradients_of_steps_are_scaled_by_the_numbers_that_share_them_and_the_largest_integer():
    x = torch.rand(2, 3, 5, 5)
    grid = Grid(8, signed=False, scale=(0.02,), zero_point=(240,), qmin=240, qmax=255)
    module, step = Rounding(grid, 75), torch.tensor(0.02, requires_grad=True)
    module(x).sum().backward()
    round_to_steps(x, step, 0, 15).sum().backward()
    # The parameter is the logarithm of the step's growth: by the chain rule, the step's gradient times the step.
    assert float(module.growth.grad) == pytest.approx(float(step.grad) * 0.02 / math.sqrt(75 * 15), rel=1e-3)


def test_bfloat16_is_rounded_in_float32():
    x = (torch.rand(4, 8, 6, 6) * 3).bfloat16()
    rounded = round_to_steps(x, torch.tensor(0.2), 0, 15)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, ((x.float() / 0.2).round().clamp(0, 15) * 0.2).bfloat16())


@pytest.mark.parametrize("bits", [8, 4, 2])
@torch.no_grad()
def test_the_network_that_trains_computes_what_the_lowered_graph_computes(bits):
    model, x = everything()
    network = inference(model)
    grids = grids_of(network, x, bits)
    fake = fake_quantized(network, grids, ())
    torch.testing.assert_close(fake.network(x), network.lowered(grids)(x), rtol=1e-5, atol=1e-5)
    assert (fake.network(x) - network(x)).abs().max() > 0.01


def test_so_it_does_after_its_parameters_moved_and_were_read_off():
    model, x = everything()
    network = inference(model)
    names = [str(node.target) for node in network.graph.find_nodes(op="get_attr")]
    fake = fake_quantized(network, grids_of(network, x, 4), names)
    optimizer = torch.optim.Adam(fake.network.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        (fake.network(x) - network(x)).square().mean().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fake.network.parameters() if p.requires_grad)
    rounded = fake.read_off(names)
    with torch.no_grad():
        found, wanted = network.with_tensors(rounded.tensors).lowered(rounded.grids)(x), fake.network(x)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_values_that_share_a_grid_still_share_it_after_training():
    model, x = everything()
    network = inference(model)
    fake = fake_quantized(network, grids_of(network, x, 4), ())
    for parameter in fake.network.parameters():
        parameter.data += torch.rand_like(parameter) / 10
    grids = fake.read_off(()).grids
    (group,) = sharing(network.graph)
    assert len(group) > 2
    assert len({grids[name] for name in group}) == 1
    other = {**grids, group[0]: affine(0, 1)}
    assert len({fake_quantized(network, other, ()).roundings[name] for name in group}) == 2


def test_a_dictated_grid_is_not_learned():
    model, x = everything()
    network = inference(model)
    grids = grids_of(network, x, 4) | {"sigmoid": Grid(8, signed=True, scale=(1 / 256,), zero_point=(-128,))}
    fake = fake_quantized(network, grids, ())
    optimizer = torch.optim.SGD(fake.network.parameters(), lr=0.5, weight_decay=0.1)
    fake.network(x).square().sum().backward()
    optimizer.step()
    assert fake.read_off(()).grids["sigmoid"] == grids["sigmoid"]
    assert fake.read_off(()).grids["x"] != grids["x"]


def test_a_step_never_falls_below_its_floor():
    grid = symmetric(torch.tensor([0.7, 0.7]), axis=0, bits=4)
    module = Rounding(grid, 9, floor=torch.tensor([0.01, 0.2]))
    module.growth.data -= 100
    assert module.read_off().scale == pytest.approx((0.01, 0.2))


def test_values_at_the_end_of_their_grid_pass_their_gradient_through_a_max_pool():
    """Picked values are not rounded twice: at the grid's upper end the second rounding would stop the gradient."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)).eval()
    x = torch.randn(8, 1, 8, 8)
    network = inference(Model(module, (x[:1],)))
    grids = {name: affine(-4, 4) for name in points(network.graph)} | {"relu": affine(0, 0.2)}
    fake = fake_quantized(network, grids, ())
    fake.network(x).sum().backward()
    steps = fake.network.get_submodule(fake.roundings["relu"]).growth
    assert steps.grad.abs() > 1e-4


def test_a_resnet20_gets_its_roundings_within_a_second():
    class Block(nn.Module):
        def __init__(self, into: int, out: int) -> None:
            super().__init__()
            stride, self.wider = out // into, (out - into) // 2
            self.one, self.norm1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
            self.two, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm2(self.two(F.relu(self.norm1(self.one(x)))))
            return F.relu(y + F.pad(x[..., :: x.shape[-1] // y.shape[-1], :: x.shape[-1] // y.shape[-1]],
                                    (0, 0, 0, 0, self.wider, self.wider)))  # fmt: skip

    blocks = [Block(*pair) for pair in pairwise([16, *[16] * 3, *[32] * 3, *[64] * 3])]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    module = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks, *head)
    x = torch.randn(1, 3, 32, 32)
    network = inference(Model(settled(module), (x,)))
    grids = grids_of(network, x, 4)
    start = time.process_time()
    fake_quantized(network, grids, ())
    assert time.process_time() - start < 1
