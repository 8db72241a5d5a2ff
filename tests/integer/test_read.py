from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from haversack.calibration.ranges import observe
from haversack.errors import ExportError
from haversack.graph.inference import inference, lower
from haversack.graph.ops import fixed_ranges, points, sharing
from haversack.grid import Grid, affine, symmetric
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.model import Model
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

DATA = Path(__file__).parents[3] / "shared/data/mlperf-tiny"
TOP = {8: (1 / 256, 1 / 128), 16: (1 / 32768, 1 / 32768)}


class Does(nn.Module):
    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *x):
        return self.function(*x, *self.layers)


def model_of(function, *layers, shape=(3, 8, 8)) -> tuple[Model, torch.Tensor]:
    torch.manual_seed(0)
    module = Does(function, *layers).eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean), nn.init.uniform_(layer.running_var, 0.5, 2)
    x = torch.randn(32, *shape)
    return Model(module, (x[:1],)), x


def conv(into=3, out=4, kernel=3, **options) -> nn.Module:
    options.setdefault("padding", kernel // 2)
    return nn.Conv2d(into, out, kernel, **options)


def quantized(model: Model, x: torch.Tensor, bits: int = 8, **grids: Grid) -> Model:
    """The model with grids between the smallest and largest numbers seen, but for those that are given."""
    return replace(model, grids={**grids_of(inference(model), x, bits), **grids})


def grids_of(network, x: torch.Tensor, bits: int = 8, *, signed: bool = True) -> dict[str, Grid]:
    """Grids as TFLite's specification wants them."""
    seen = observe(network, points(network.graph), [(x,)], counted=False)
    limits = {name: (each.low, each.high) for name, each in seen.items()}
    for group in sharing(network.graph):
        limits |= dict.fromkeys(group, (min(limits[n][0] for n in group), max(limits[n][1] for n in group)))
    chosen = {name: _grid(*each, bits, signed=signed) for name, each in limits.items()}
    for name, (low, _) in fixed_ranges(network.graph).items():
        if name in chosen:
            zero = (-128 if bits == 8 and low == 0 else 0) + (0 if signed else 128)
            chosen[name] = Grid(bits, signed, (TOP[bits][low < 0],), (zero,))
    for name in (layer.weight for layer in network.layers()):
        chosen[name] = symmetric(network.tensor(name).abs().flatten(1).amax(1), axis=0)
    return chosen


def _grid(low: float, high: float, bits: int, *, signed: bool) -> Grid:
    if bits == 16:
        return symmetric(torch.tensor(max(-low, high, 1e-3)), axis=None, bits=16)
    return affine(low, high, signed=signed)


def kinds(graph) -> Counter:
    return Counter(operation.kind for operation in graph.operations)


def one(graph, kind: str):
    (operation,) = [each for each in graph.operations if each.kind == kind]
    return operation


def outputs(graph, *x: torch.Tensor) -> list[torch.Tensor]:
    """What the NumPy reference computes, in torch's order of dimensions."""
    check_shapes(graph)
    inputs = [each.permute(order).contiguous().numpy() for each, order in zip(x, graph.input_orders, strict=True)]
    results = zip(run(graph, inputs), graph.output_orders, strict=True)
    return [torch.from_numpy(each).permute(*np.argsort(order).tolist()) for each, order in results]


def assert_reads_as_it_runs(lowered, graph, *x: torch.Tensor, within: float) -> None:
    with torch.no_grad():
        expected = lowered(*x)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for ours, theirs in zip(outputs(graph, *x), expected, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) <= within


# Name: (function, layers, shape of one input). Each is read without a TRANSPOSE.
OPERATIONS = {
    "strides and dilation": (lambda x, c: c(x), lambda: [conv(stride=(2, 1), dilation=2)], (3, 8, 8)),
    "padding in one direction": (lambda x, c: c(x), lambda: [conv(padding=(1, 0), stride=2, bias=False)], (3, 9, 8)),
    "padding by name": (lambda x, c: c(x), lambda: [conv(kernel=4, padding="same")], (3, 8, 8)),
    "no padding by name": (lambda x, c: c(x), lambda: [conv(padding="valid")], (3, 8, 8)),
    "groups": (lambda x, c: c(x), lambda: [conv(6, 9, groups=3)], (6, 8, 8)),
    "depthwise": (lambda x, c: F.relu6(c(x)), lambda: [conv(6, 6, groups=6)], (6, 8, 8)),
    "depthwise with multiplier": (lambda x, c: c(x), lambda: [conv(4, 12, groups=4)], (4, 8, 8)),
    "one channel": (lambda x, c: c(x), lambda: [conv(1, 4, groups=1)], (1, 8, 8)),
    "1-D": (lambda x, c, d: d(F.pad(F.relu(c(x)), (1, 2))), lambda: [nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 4)], (3, 16)),
    "1-D depthwise": (lambda x, c: F.max_pool1d(c(x), 2), lambda: [nn.Conv1d(4, 4, 3, groups=4)], (4, 17)),
    "1-D classifier": (
        lambda x, c, h: h(F.avg_pool1d(F.relu(c(x)), 2).flatten(1)),
        lambda: [nn.Conv1d(3, 4, 5, 2), nn.Linear(12, 5)],
        (3, 16),
    ),
    "transposed 2x2": (lambda x, c: c(x), lambda: [nn.ConvTranspose2d(3, 4, 2, 2)], (3, 5, 6)),
    "transposed 4x4": (lambda x, c: F.relu(c(x)), lambda: [nn.ConvTranspose2d(3, 4, 4, 2, 1)], (3, 5, 6)),
    "transposed 3x3": (lambda x, c: c(x), lambda: [nn.ConvTranspose2d(3, 4, 3, 2, 1, 1)], (3, 5, 6)),
    "transposed without bias": (lambda x, c: c(x), lambda: [nn.ConvTranspose2d(3, 4, 3, bias=False)], (3, 5, 6)),
    "transposed 1-D": (lambda x, c: c(x), lambda: [nn.ConvTranspose1d(3, 4, 4, 2, 1)], (3, 6)),
    "linear": (lambda x, a, b: b(F.relu(a(x))), lambda: [nn.Linear(20, 12), nn.Linear(12, 5)], (20,)),
    "linear on tokens": (lambda x, a: a(x), lambda: [nn.Linear(20, 12)], (7, 20)),
    "linear after 1-D": (
        lambda x, c, a: a(c(x).transpose(1, 2)),
        lambda: [nn.Conv1d(3, 4, 3), nn.Linear(4, 5)],
        (3, 9),
    ),
    "flatten": (lambda x, c, a: a(F.relu(c(x)).flatten(1)), lambda: [conv(3, 4, 3), nn.Linear(256, 5)], (3, 8, 8)),
    "flatten, then relu": (lambda x, c, a: a(F.relu(c(x).flatten(1))), lambda: [conv(), nn.Linear(256, 5)], (3, 8, 8)),
    "flatten, then constants": (
        lambda x, c, a: a(c(x).flatten(1) * torch.linspace(-1, 1, 256) + torch.arange(256.0) / 100),
        lambda: [conv(), nn.Linear(256, 5)],
        (3, 8, 8),
    ),
    "add": (lambda x, c, d: F.relu(c(x) + d(x)), lambda: [conv(), conv(kernel=1)], (3, 8, 8)),
    "sub": (lambda x, c, d: c(x) - d(x), lambda: [conv(), conv()], (3, 8, 8)),
    "mul": (lambda x, c, d: c(x) * d(x).mean((2, 3), keepdim=True), lambda: [conv(), conv()], (3, 8, 8)),
    "expanded": (lambda x, c: c(x) * F.avg_pool2d(c(x), 8).expand(-1, -1, 8, 8), lambda: [conv()], (3, 8, 8)),
    "constants": (lambda x, c: 2 - c(x) * torch.arange(1.0, 5).view(4, 1, 1) / 3, lambda: [conv()], (3, 8, 8)),
    "cat": (lambda x, c, d: torch.cat([c(x), F.relu(d(x)), x], 1), lambda: [conv(), conv()], (3, 8, 8)),
    "max pool": (lambda x, c: F.max_pool2d(F.relu(c(x)), 3, 2, 1), lambda: [conv()], (3, 8, 8)),
    "max pool of both signs": (lambda x, c: F.max_pool2d(c(x), 3, 2, 1), lambda: [conv()], (3, 8, 8)),
    "max pool that sticks out": (lambda x, c: F.max_pool2d(c(x), 2, ceil_mode=True), lambda: [conv()], (3, 7, 7)),
    "average pool": (lambda x, c: F.avg_pool2d(c(x), 2), lambda: [conv()], (3, 8, 8)),
    "average pool with zeros": (lambda x, c: F.avg_pool2d(c(x), 3, 2, 1), lambda: [conv()], (3, 8, 8)),
    "average pool without": (
        lambda x, c: F.avg_pool2d(c(x), 3, 1, 1, count_include_pad=False),
        lambda: [conv()],
        (3, 8, 8),
    ),
    "whole map": (lambda x, c: F.avg_pool2d(c(x), 8), lambda: [conv()], (3, 8, 8)),
    "adaptive": (lambda x, c: F.adaptive_avg_pool2d(c(x), (2, 4)), lambda: [conv()], (3, 8, 8)),
    "mean of rows": (lambda x, c: c(x).mean(2), lambda: [conv()], (3, 8, 8)),
    "maximum": (lambda x, c: c(x).amax((2, 3)), lambda: [conv()], (3, 8, 8)),
    "pad": (lambda x, c, d: d(F.pad(F.relu(c(x)), (1, 0, 2, 1))), lambda: [conv(), conv(4, 4)], (3, 8, 8)),
    "pad with a number": (lambda x, c: F.pad(F.relu(c(x)), (1, 1), value=-1.0), lambda: [conv()], (3, 8, 8)),
    "shortcut": (lambda x, c: F.pad(c(x)[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)), lambda: [conv()], (3, 8, 8)),
    "select": (lambda x, c: c(x)[:, :, -1], lambda: [conv()], (3, 8, 8)),
    "chunk": (lambda x, c: torch.mul(*c(x).chunk(2, 1)), lambda: [conv()], (3, 8, 8)),
    "split": (lambda x, c: torch.cat(c(x).split([1, 3], 1)[::-1], 1), lambda: [conv()], (3, 8, 8)),
    "unbind": (lambda x, c: torch.add(*c(x).unbind(1)), lambda: [conv(3, 2)], (3, 8, 8)),
    "squeeze": (
        lambda x, c, a: a(F.avg_pool2d(c(x), 8).squeeze(3).squeeze(2)),
        lambda: [conv(), nn.Linear(4, 5)],
        (3, 8, 8),
    ),
    "unsqueeze": (lambda x, c: c(x.unsqueeze(1)), lambda: [conv(1, 2)], (8, 8)),
    "upsample": (lambda x, c: F.interpolate(c(x), scale_factor=(2, 3)), lambda: [conv()], (3, 4, 4)),
    "upsample 1-D": (lambda x, c: F.interpolate(c(x), scale_factor=2), lambda: [nn.Conv1d(3, 4, 3)], (3, 9)),
    "leaky relu": (lambda x, c: F.leaky_relu(c(x), 0.1), lambda: [conv()], (3, 8, 8)),
    "hardswish": (lambda x, c: F.hardswish(c(x) * 4), lambda: [conv()], (3, 8, 8)),
    "hardsigmoid": (lambda x, c, d: F.hardsigmoid(c(x)) * d(x), lambda: [conv(), conv()], (3, 8, 8)),
    "sigmoid": (lambda x, c: torch.sigmoid(c(x)), lambda: [conv()], (3, 8, 8)),
    "tanh": (lambda x, c: torch.tanh(c(x)), lambda: [conv()], (3, 8, 8)),
    "silu": (lambda x, c, d: d(F.silu(c(x))), lambda: [conv(), conv(4, 4)], (3, 8, 8)),
    "softmax over channels": (lambda x, c: c(x).softmax(1), lambda: [conv()], (3, 8, 8)),
    "softmax of logits": (lambda x, a: a(x).softmax(-1), lambda: [nn.Linear(20, 5)], (20,)),
    "one relu for two": (lambda x, c, d: F.relu(c(x)) + d(F.relu(x)), lambda: [conv(3, 3), conv(3, 3)], (3, 8, 8)),
    "other clamps": (lambda x, c: F.hardtanh(c(x)).clamp(-0.5, 0.25).clamp(max=0.2), lambda: [conv()], (3, 8, 8)),
    "channels last in torch": (lambda x, c: c(x.permute(0, 3, 1, 2)), lambda: [conv()], (8, 8, 3)),
}  # fmt: skip


@cache
def operation(name: str):
    """The inference graph of one of the operations, and inputs."""
    function, build, shape = OPERATIONS[name]
    torch.manual_seed(1)
    model, x = model_of(function, *build(), shape=shape)
    return inference(model), x


@pytest.mark.parametrize("name", OPERATIONS)
def test_float_operations_compute_what_torch_computes_without_a_transpose(name):
    network, x = operation(name)
    graph = read(network.module)
    assert "TRANSPOSE" not in kinds(graph)
    assert_reads_as_it_runs(network.module, graph, x[:3], within=1e-5)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", OPERATIONS)
def test_integer_operations_stay_within_steps_of_the_pairs(name, bits):
    network, x = operation(name)
    lowered = network.lowered(grids_of(network, x, bits))
    graph = read(lowered)
    assert "TRANSPOSE" not in kinds(graph)
    largest = float(lowered(x[:3]).abs().max())
    assert_reads_as_it_runs(lowered, graph, x[:3], within=largest * (0.03 if bits == 8 else 0.002))


@pytest.mark.parametrize("name", OPERATIONS)
def test_unsigned_grids_give_the_same_file_as_signed_ones(name):
    network, x = operation(name)
    signed, unsigned = (read(network.lowered(grids_of(network, x, signed=each))) for each in (True, False))
    assert signed.operations == unsigned.operations
    for key, value in signed.values.items():
        other = unsigned.values[key]
        assert (value.shape, value.dtype, value.grid) == (other.shape, other.dtype, other.grid)
        assert value.data is None or np.array_equal(value.data, other.data)


def test_an_integer_network_holds_one_quantize_and_one_dequantize():
    model, x = model_of(lambda x, c, d, h: h(F.relu(d(F.relu(c(x)))).mean((2, 3))), conv(), conv(4, 8), nn.Linear(8, 5))
    graph = read(lower(quantized(model, x)))
    assert [operation.kind for operation in graph.operations] == (
        ["QUANTIZE", "CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED", "DEQUANTIZE"]
    )
    assert {operation.options.get("activation", "NONE") for operation in graph.operations} == {"NONE"}


def test_a_pad_that_is_tensorflows_same_vanishes_into_the_convolution():
    model, x = model_of(lambda x, c: c(F.pad(x, (0, 1, 0, 1))), conv(stride=2, padding=0))
    for lowered in (lower(model), lower(quantized(model, x))):
        graph = read(lowered)
        assert "PAD" not in kinds(graph)
        assert one(graph, "CONV_2D").options["padding"] == "SAME"


def test_torchs_padding_before_strides_is_no_same():
    model, _ = model_of(lambda x, c: c(x), conv(stride=2))
    graph = read(lower(model))
    assert graph.values[one(graph, "PAD").inputs[1]].data.tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]
    assert one(graph, "CONV_2D").options["padding"] == "VALID"


def test_slices_along_two_dimensions_are_one_operation():
    model, _ = model_of(lambda x: x[:, :, ::2, 1::3].relu())
    graph = read(lower(model))
    assert kinds(graph) == {"STRIDED_SLICE": 1, "RELU": 1}


def test_real_activations_fuse_into_the_operation_before():
    model, _ = model_of(lambda x, c, d: F.relu6(c(x)) + F.relu(d(x)), conv(), conv())
    graph = read(lower(model))
    assert [each.option("activation") for each in graph.operations] == ["RELU6", "RELU", "NONE"]


def test_inputs_and_outputs_lie_channels_last():
    model, _ = model_of(lambda x, c: (c(x), c(x).mean((2, 3))), conv())
    graph = read(lower(model))
    assert graph.values[graph.inputs[0]].shape == (1, 8, 8, 3)
    assert graph.input_orders == ((0, 2, 3, 1),)
    assert graph.output_orders == ((0, 2, 3, 1), (0, 1))


def test_a_batch_that_a_reshape_merges_stays_free():
    model, x = model_of(lambda x, a: a(x.reshape(-1, 6)).reshape(-1, 4, 2), nn.Linear(6, 2), shape=(4, 6))
    graph = read(lower(model))
    assert_reads_as_it_runs(lower(model), graph, x[:3], within=1e-5)


def narrow(high: float, bits: int) -> Grid:
    """The top `2^bits` integers of int8, from zero on."""
    zero = 127 - ((1 << bits) - 1)
    return Grid(8, True, (high / ((1 << bits) - 1),), (zero,), None, zero, 127)


def test_a_narrow_grid_saturates_at_the_top_and_clamps_at_the_bottom():
    model, x = model_of(lambda x, c, d: d(F.relu(c(x))), conv(), conv(4, 4))
    lowered = lower(quantized(model, x, relu=narrow(1.0, 4)))
    graph = read(lowered)
    first, second = (operation for operation in graph.operations if operation.kind == "CONV_2D")
    assert (first.option("activation"), second.option("activation")) == ("RELU", "NONE")
    assert_reads_as_it_runs(lowered, graph, x[:3], within=0.02)


def test_a_narrow_grid_that_no_activation_clamps_to_is_refused_by_name():
    model, x = model_of(lambda x, c, d: d(F.relu(c(x))), conv(), conv(4, 4))
    low = Grid(8, True, (0.1,), (-128,), None, -128, -113)
    with pytest.raises(ExportError, match=r"layers\.0.* conv2d.*-128\.\.-113") as caught:
        read(lower(quantized(model, x, relu=low)))
    assert "leave that layer float" in caught.value.mend


def test_a_clamp_below_the_grids_top_is_relu6_or_refused():
    def graph_of(function):
        model, x = model_of(lambda x, c, d: d(function(c(x))), conv(), conv(4, 4))
        network = inference(model)
        clamp = next(
            node.name for node in network.graph.nodes if str(node.target).startswith(("aten.rel", "aten.hard"))
        )
        return read(lower(quantized(model, x, **{clamp: affine(-2.0, 8.0, signed=True)})))

    convolution = next(each for each in graph_of(F.relu6).operations if each.kind == "CONV_2D")
    assert convolution.options["activation"] == "RELU6"
    with pytest.raises(ExportError, match="clamped"):
        graph_of(lambda x: F.hardtanh(x, 0.0, 4.0))


def test_values_on_grids_that_must_be_shared_are_requantized():
    model, x = model_of(lambda x, c, d: torch.cat([F.max_pool2d(c(x), 2), F.max_pool2d(d(x), 2)], 1), conv(), conv())
    loose = quantized(model, x, conv2d=affine(-4, 4, signed=True), conv2d_1=affine(-3, 3, signed=True))
    graph = read(lower(loose))
    joined = one(graph, "CONCATENATION")
    assert len({graph.values[name].grid for name in (*joined.inputs, *joined.outputs)}) == 1
    assert kinds(graph)["QUANTIZE"] > 1


def test_operations_beyond_integers_compute_on_real_numbers_between_the_others():
    model, x = model_of(lambda x, c, d: d(F.hardtanh(c(x), -0.3, 0.4)), conv(), conv(4, 4))
    graph = read(lower(quantized(model, x, hardtanh=affine(-2, 2, signed=True))))
    assert kinds(graph) == {"QUANTIZE": 2, "CONV_2D": 2, "DEQUANTIZE": 2, "MAXIMUM": 1, "MINIMUM": 1}


def test_weights_alone_on_a_grid_are_stored_as_integers():
    model, x = model_of(lambda x, c: c(x), conv())
    grids = quantized(model, x).grids
    weight = next(name for name in grids if name.endswith("weight"))
    lowered = lower(replace(model, grids={weight: grids[weight]}))
    graph = read(lowered)
    assert [operation.kind for operation in graph.operations] == ["DEQUANTIZE", "CONV_2D"]
    assert graph.values[graph.operations[0].inputs[0]].dtype == "int8"
    assert_reads_as_it_runs(lowered, graph, x[:3], within=1e-5)


def test_biases_count_in_steps_of_the_sums():
    model, x = model_of(lambda x, c: c(x), conv())
    for bits, dtype in ((8, "int32"), (16, "int64")):
        graph = read(lower(quantized(model, x, bits)))
        inputs, weight, bias = (graph.values[name] for name in one(graph, "CONV_2D").inputs)
        assert bias.dtype == dtype
        np.testing.assert_allclose(bias.grid.scale, np.multiply(weight.grid.scale, inputs.grid.scale[0]), rtol=1e-6)
        assert weight.grid.axis == 0


def test_weights_that_layers_share_are_stored_once():
    model, x = model_of(lambda x, c: c(c(x)), conv(3, 3))
    for lowered in (lower(model), lower(quantized(model, x))):
        graph = read(lowered)
        first, second = (operation for operation in graph.operations if operation.kind == "CONV_2D")
        assert first.inputs[1] == second.inputs[1]


def test_what_nothing_reads_is_left_out():
    model, x = model_of(lambda x, c, d: c(x) + d(x)[:, :4], conv(), conv(3, 8))
    graph = read(lower(quantized(model, x)))
    used = {name for operation in graph.operations for name in (*operation.inputs, *operation.outputs)}
    assert set(graph.values) == used - {""}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x, c: torch.cumsum(c(x), 1), "does not know cumsum"),
        (lambda x, c: F.pad(c(x), (1, 1, 1, 1), mode="reflect"), "does not know pad with mode 'reflect'"),
        (lambda x, c: F.avg_pool2d(c(x), 2, divisor_override=3), "divisor"),
        (lambda x, c: F.adaptive_avg_pool2d(c(x), 3), "several sizes"),
        (lambda x, c: c(x) @ c(x)[0, 0], "does not know matmul of values of different ranks"),
        (lambda x, c: F.interpolate(c(x), size=(12, 12)), "whole number"),
    ],
)
def test_what_the_graph_cannot_express_is_refused_by_name(function, name):
    model, _ = model_of(function, conv())
    with pytest.raises(ExportError, match=name) as caught:
        read(lower(model))
    assert "ONNX Runtime" in caught.value.mend


def test_a_refusal_names_the_layer():
    model, _ = model_of(lambda x, c, n: n(c(x)), conv(), nn.GroupNorm(2, 4))
    with pytest.raises(ExportError, match=r"layer layers\.1: .*group_norm"):
        read(lower(model))


def test_shuffled_channels_cost_one_transpose():
    def shuffle(x, c):
        return c(x).unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)

    model, x = model_of(shuffle, conv(3, 8))
    graph = read(lower(model))
    assert kinds(graph)["TRANSPOSE"] == 1
    assert_reads_as_it_runs(lower(model), graph, x[:3], within=1e-5)


def test_flattened_maps_come_out_in_torchs_order():
    model, x = model_of(lambda x, c: c(x).flatten(1), conv())
    assert_reads_as_it_runs(lower(model), read(lower(model)), x[:3], within=1e-5)


@st.composite
def moves(draw):
    """Reshapes and permutations of a (batch, 4, 6, 2) value."""
    shape, steps = [4, 6, 2], []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(shape))))
            shape = [shape[dim] for dim in order]
            steps.append(("permute", (0, *(dim + 1 for dim in order))))
        else:
            shape = draw(
                st.sampled_from([[4, 6, 2], [24, 2], [48], [4, 12], [2, 12, 2], [1, 8, 6], [3, 1, 4, 4], [48, 1]])
            )
            steps.append(("reshape", (-1, *shape)))
    return steps


@settings(max_examples=15)
@given(moves())
def test_any_chain_of_reshapes_and_permutations_moves_numbers_as_torch_does(steps):
    def function(x):
        for name, numbers in steps:
            x = getattr(x, name)(numbers)
        return x * 2.0

    model, x = model_of(function, shape=(4, 6, 2))
    assert_reads_as_it_runs(lower(model), read(lower(model)), x[:3], within=0)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data/mlperf-tiny")
@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("resnet8", (3, 32, 32), {"CONV_2D": 9, "ADD": 3, "MEAN": 1, "FULLY_CONNECTED": 1}),
        ("dscnn", (1, 49, 10), {"CONV_2D": 5, "DEPTHWISE_CONV_2D": 4, "AVERAGE_POOL_2D": 1, "FULLY_CONNECTED": 1}),
        pytest.param(
            *("vww", (3, 96, 96), {"CONV_2D": 14, "DEPTHWISE_CONV_2D": 13, "MEAN": 1, "FULLY_CONNECTED": 1}),
            marks=pytest.mark.slow,
        ),
        ("autoencoder", (640,), {"FULLY_CONNECTED": 10}),
    ],
)
def test_mlperf_tinys_networks_need_nothing_but_their_layers(name, shape, expected, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    module = getattr(__import__("mlperf_tiny"), name)(DATA)
    x = torch.randn(2, *shape)
    network = inference(Model(module, (x[:1],)))
    graph = read(network.module)
    assert kinds(graph) == expected
    assert_reads_as_it_runs(network.module, graph, x, within=1e-4)
    assert kinds(read(network.lowered(grids_of(network, x)))) == {**expected, "QUANTIZE": 1, "DEQUANTIZE": 1}


def test_a_linear_layer_whose_channels_share_a_step_stores_it_once():
    torch.manual_seed(0)
    x = torch.randn(32, 24)
    network = nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    task = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    for joint, steps in ((True, {1}), (False, {16, 3})):
        graph = read(lower(QuantizeStatic(joint_linear=joint).apply(Model(network, (x[:1],)), task)))
        weights = [graph.values[each.inputs[1]] for each in graph.operations if each.kind == "FULLY_CONNECTED"]
        assert {len(each.grid.scale) for each in weights} == steps
