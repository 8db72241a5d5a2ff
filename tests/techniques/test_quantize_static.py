import time
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, TaskError
from haversack.export.onnx import write
from haversack.graph.quantized import lower
from haversack.measure.host import load
from haversack.model import Model
from haversack.progress import shown_by
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic


def task_on(x) -> Task:
    return Task(train=list, calibrate=lambda: list(x.split(16)), score=lambda predict: 0.0)


def small(*layers, shape=(3, 8, 8)) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(48, *shape)
    return Model(nn.Sequential(*layers).eval(), (x[:1],)), x


def convolutional() -> tuple[Model, torch.Tensor]:
    return small(nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 4, 3), nn.Flatten())


class Heard:
    def __init__(self):
        self.lines = []

    def track(self, items, label, total):
        return iter(items)

    def say(self, line):
        self.lines.append(line)


@pytest.mark.parametrize("bits", [7, 8])
def test_weights_use_all_of_their_bits_and_no_more(bits):
    model, x = convolutional()
    lowered = lower(QuantizeStatic("min_max", weight_bits=bits).apply(model, task_on(x)))
    weights = [tensor for name, tensor in lowered.named_buffers() if "weight_integers" in name]
    assert len(weights) == 2
    assert all(int(weight.max()) <= 2 ** (bits - 1) - 1 for weight in weights)
    assert all(bool((weight.flatten(1).abs().amax(1) == 2 ** (bits - 1) - 1).all()) for weight in weights)


@pytest.mark.parametrize("ranges", ["min_max", "percentile", "mse"])
@pytest.mark.parametrize(("activations", "lowest"), [("uint8", 0), ("int8", -128)])
def test_relu6_begins_at_the_lowest_integer_and_ends_at_six(ranges, activations, lowest):
    model, x = convolutional()
    grids = QuantizeStatic(ranges, activations).apply(model, task_on(x * 20)).grids
    clamp = grids["hardtanh"] if "hardtanh" in grids else grids["relu6"]
    assert clamp.zero_point == (lowest,)
    assert clamp.high <= 6 * (1 + 1e-6)


@torch.no_grad()
def test_a_channel_of_vanishing_weights_keeps_its_large_bias():
    model, x = small(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.Flatten())
    first, last = model.module[0], model.module[2]
    first.weight[1] = 1e-9
    first.bias[1] = 70.0
    last.weight[2] = 0
    last.bias[2] = -30.0
    expected = model.module(x)
    lowered = lower(QuantizeStatic("min_max").apply(model, task_on(x)))
    step = (expected.max() - expected.min()) / 255
    assert (lowered(x) - expected).abs().max() < 6 * step
    assert (load(write(lowered), 1)(x) - lowered(x)).abs().max() < 2 * step


@torch.no_grad()
def test_layers_that_share_a_weight_share_a_grid_that_fits_both_biases():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4) * 1e-6)
            self.first, self.second = nn.Parameter(torch.full((4,), 50.0)), nn.Parameter(torch.zeros(4))

        def forward(self, x):
            return F.linear(F.relu(F.linear(x, self.weight, self.first)), self.weight, self.second)

    torch.manual_seed(0)
    x = torch.randn(32, 4)
    model = Model(Shared().eval(), (x[:1],))
    quantized = QuantizeStatic("min_max").apply(model, task_on(x))
    hidden = float(quantized.grids["relu"].high)
    assert hidden == pytest.approx(50, rel=0.01)
    assert lower(quantized)(x).isfinite().all()


def test_a_network_that_is_quantized_is_not_quantized_again():
    model, x = convolutional()
    with pytest.raises(NothingChangedError, match="quantized already"):
        QuantizeStatic().apply(QuantizeStatic().apply(model, task_on(x)), task_on(x))


def test_a_network_without_an_integer_form_is_an_error():
    model, x = small(nn.GELU(), nn.LayerNorm(8))
    with pytest.raises(NothingChangedError, match="no operation of this network has an integer form"):
        QuantizeStatic().apply(model, task_on(x))


def test_operations_that_stay_float_are_said_and_so_are_constants():
    model, x = small(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Conv2d(4, 2, 1), nn.ReLU(), nn.Flatten())
    with torch.no_grad():
        model.module[2].weight.zero_()
        model.module[2].bias.fill_(-1)
    heard = Heard()
    with shown_by(heard):
        QuantizeStatic().apply(model, task_on(x))
    assert heard.lines == [
        "constant on all calibration inputs: relu. Are the inputs typical?",
        "these stay float32: 1 aten.gelu.default.",
    ]


def test_inputs_that_never_vary_are_refused():
    model, x = convolutional()
    with pytest.raises(TaskError, match=r"calibrate\(\)"):
        QuantizeStatic().apply(model, task_on(torch.zeros_like(x)))


def test_weights_that_are_not_numbers_are_refused_by_name():
    model, x = small(nn.Conv2d(3, 4, 3), nn.Flatten())
    with torch.no_grad():
        model.module[0].weight[0] = float("inf")
    with pytest.raises((RecipeError, TaskError)):
        QuantizeStatic().apply(model, task_on(x))


@pytest.mark.parametrize("wrong", [{"ranges": "max"}, {"activations": "int4"}, {"weight_bits": 4}])
def test_settings_out_of_range_are_refused_with_what_to_write(wrong):
    with pytest.raises(RecipeError) as caught:
        QuantizeStatic(**wrong)
    assert caught.value.mend


def test_activations_are_signed_where_the_device_wants_it_and_nothing_is_offered_where_integers_do_not_pay():
    model, _ = convolutional()
    arm = find_device("raspberry-pi-zero-2w")
    assert {step.activations for step in QuantizeStatic.options(model, arm)} == {"int8"}
    x86 = replace(arm, isa="x86-64")
    assert {step.activations for step in QuantizeStatic.options(model, x86)} == {"uint8"}
    assert QuantizeStatic.options(model, replace(arm, number_formats=("float32",))) == ()


@pytest.mark.slow
def test_five_hundred_images_calibrate_a_resnet20_in_seconds():
    class Block(nn.Module):
        def __init__(self, into, out, stride):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
            )  # fmt: skip
            self.short = nn.Identity() if stride == 1 else nn.AvgPool2d(1, 2)
            self.pad = (out - into) // 2

        def forward(self, x):
            return F.relu(self.body(x) + F.pad(self.short(x), (0, 0, 0, 0, self.pad, self.pad)))

    widths = [16, *[16] * 3, *[32] * 3, *[64] * 3]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    model, _ = small(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, *head, shape=(3, 32, 32))
    x = torch.randn(500, 3, 32, 32)
    # Three times what it takes alone on one core (1.0 and 2.4 s): other tests may run beside it.
    for ranges, seconds in (("min_max", 3), ("mse", 7)):
        start = time.perf_counter()
        QuantizeStatic(ranges).apply(model, task_on(x))
        assert time.perf_counter() - start < seconds
