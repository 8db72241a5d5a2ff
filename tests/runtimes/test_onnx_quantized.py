import onnx
import onnxruntime
import pytest
import torch
from onnx_files import SEQUENCE, WEIGHT_BITS, Does, folded, operation_types, run
from torch import fx, nn
from torch.nn import functional as F

from haversack.errors import ExportError
from haversack.graph.fold import fold
from haversack.graph.ops import points
from haversack.graph.trace import trace
from haversack.grid import Grid, affine, symmetric
from haversack.runtimes.onnx.graph import OnnxGraph
from haversack.runtimes.onnx.write import write, write_any


class Convolutional(nn.Module):
    """One of each that ONNX Runtime has an integer kernel for."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.conv3 = nn.Conv2d(8, 8, 1, bias=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.conv3(F.relu6(self.conv2(x))))
        x = F.pad(F.max_pool2d(x, 2)[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))
        return self.head(x.mean((2, 3)))


class Ranges(fx.Interpreter):
    def __init__(self, graph):
        super().__init__(graph)
        self.seen = {}

    def run_node(self, n):
        value = super().run_node(n)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            self.seen[n.name] = (float(value.min()), float(value.max()))
        return value


def quantized(network: nn.Module, x, *, signed=False, bits=WEIGHT_BITS):
    graph = fold(trace(network.eval(), (x[:1],)))
    ranges = Ranges(graph.module)
    ranges.run(x)
    grids = {name: affine(*ranges.seen[name], signed=signed) for name in points(graph.graph)}
    for name in (layer.weight for layer in graph.layers()):
        grids[name] = symmetric(graph.tensor(name).abs().flatten(1).amax(1), axis=0, bits=bits)
    return graph.lowered(grids)


def optimized_types(content: bytes, folder) -> list[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


@torch.no_grad()
def test_onnx_runtime_runs_a_quantized_network_in_integers_from_end_to_end(tmp_path):
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    content = write(quantized(Convolutional(), x))
    assert optimized_types(content, tmp_path) == [
        "QuantizeLinear",
        *["QLinearConv"] * 3,
        "QLinearAdd",
        "MaxPool",
        "Slice",
        "Pad",
        "QLinearGlobalAveragePool",
        "Flatten",
        "QGemm",
        "DequantizeLinear",
    ]


@pytest.mark.parametrize("signed", [False, True])
@torch.no_grad()
def test_a_quantized_file_and_its_graph_are_at_most_one_step_apart(signed):
    x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    graph = quantized(Convolutional(), x, signed=signed)
    (result,), expected = run(write(graph), x), graph(x)
    step = (expected.max() - expected.min()) / 200
    assert (result - expected).abs().max() <= step


@torch.no_grad()
def test_a_quantized_linear_layer_over_a_sequence_agrees_with_its_graph():
    x = torch.randn(16, *SEQUENCE, generator=torch.Generator().manual_seed(0))
    graph = quantized(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), x)
    (result,), expected = run(write(graph), x), graph(x)
    assert (result - expected).abs().max() <= (expected.max() - expected.min()) / 200


@torch.no_grad()
def test_integers_are_padded_with_the_integer_of_zero():
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    graph = quantized(Does(lambda x, layer: F.pad(layer(x), (1, 1), value=0.0), nn.Conv2d(3, 3, 1)), x)
    (result,) = run(write(graph), x)
    assert result[..., 0].abs().max() == result[..., -1].abs().max() == 0
    torch.testing.assert_close(result, graph(x))


def in_4_bits(network: nn.Module, x, *, activations=None):
    """The network with 4-bit weights, and perhaps activations on a grid of the given integers."""
    graph = fold(trace(network.eval(), (x[:1],)))
    ranges = Ranges(graph.module)
    ranges.run(x)
    grids = {name: affine(*ranges.seen[name]) for name in points(graph.graph)}
    if activations is not None:
        low, high = activations
        grids = {
            name: Grid(8, False, (grid.high / (high - low),), (low,), None, low, high) if grid.low == 0 else grid
            for name, grid in grids.items()
        }
    for name in (layer.weight for layer in graph.layers()):
        grids[name] = symmetric(graph.tensor(name).abs().flatten(1).amax(1), axis=0, bits=4)
    return graph.lowered(grids)


def test_weights_of_4_bits_take_half_a_byte_each_and_are_computed_in_integers(tmp_path):
    torch.manual_seed(0)
    network, x = (
        nn.Sequential(nn.Conv2d(16, 63, 3), nn.ReLU(), nn.Flatten(), nn.Linear(63 * 36, 21)),
        torch.randn(4, 16, 8, 8),
    )
    content = write(in_4_bits(network, x))
    weights = 16 * 63 * 9 + 63 * 36 * 21
    assert weights / 2 <= len(content) < weights / 2 + 4_000
    types = optimized_types(content, tmp_path)
    assert "QLinearConv" in types
    assert "Conv" not in types


def test_a_file_of_4_bits_and_its_graph_are_at_most_one_step_apart():
    torch.manual_seed(0)
    x = torch.randn(16, 3, 16, 16)
    lowered = in_4_bits(Convolutional(), x)
    (outputs,) = run(write(lowered), x)
    step = lowered.graph.output_node().args[0].args[1]
    assert (outputs - lowered(x)).abs().max() <= step * 1.01


@pytest.mark.parametrize("integers", [(0, 15), (240, 255), (100, 115)])
def test_activations_of_few_integers_are_clipped_to_them(integers):
    torch.manual_seed(0)
    x = torch.randn(64, 3, 16, 16)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    lowered = in_4_bits(network, x[:2], activations=integers)
    (outputs,) = run(write(lowered), x)
    step = lowered.graph.output_node().args[0].args[1]
    assert set((outputs / step).round().int().unique().tolist()) == set(range(16))
    assert (outputs - lowered(x)).abs().max() <= step * 1.01


def test_activations_of_16_bits_are_refused_by_name():
    x = torch.randn(2, 3, 8, 8)
    graph = fold(trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (x[:1],)))
    wide = {name: Grid(16, True, (0.001,), (0,)) for name in points(graph.graph)}
    with pytest.raises(ExportError, match="no integer kernels for int16"):
        write_any(graph.lowered(wide))


@pytest.mark.parametrize("signed", [None, False, True])
@pytest.mark.parametrize(
    ("layer", "pads", "shape"),
    [
        (nn.Conv1d(3, 4, 3, 2), (0, 1), (3, 9)),
        (nn.Conv2d(3, 4, 3, 2, padding=(0, 1)), (0, 1, 2, 1), (3, 8, 9)),
        (nn.Conv2d(3, 4, (3, 4), padding="same"), (1, 0, 0, 3), (3, 8, 9)),
    ],
)
@torch.no_grad()
def test_uneven_zeros_go_into_the_convolution_behind_them_and_change_nothing(layer, pads, shape, signed):
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0)) + 0.5
    network = Does(lambda x, layer: layer(F.pad(x, pads)), layer)
    graph = folded(network, x[:1]) if signed is None else quantized(network, x, signed=signed)
    content = write(graph)
    assert "Pad" not in operation_types(content)
    expected = graph(x)
    step = 1e-5 if signed is None else (expected.max() - expected.min()) / 200
    assert (run(content, x)[0] - expected).abs().max() <= step


@torch.no_grad()
def test_a_pad_that_is_read_by_more_than_a_convolution_is_still_written_for_the_others():
    def both(x, layer):
        padded = F.pad(F.relu(layer(x)), (0, 1, 0, 1))
        return layer(padded), F.max_pool2d(padded, 3, 1)

    x = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    graph = quantized(Does(both, nn.Conv2d(3, 3, 3)), x)
    content = write(graph)
    assert operation_types(content).count("Pad") == 1
    for result, expected in zip(run(content, x), graph(x), strict=True):
        assert (result - expected).abs().max() <= (expected.max() - expected.min()) / 200


def test_beside_weights_of_4_bits_steps_of_biases_are_computed_when_the_file_is_loaded(tmp_path, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 5), nn.ReLU(), nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 48)]
    network, x = nn.Sequential(*layers).eval(), torch.randn(8, 3, 8, 8)
    narrow, wide = quantized(network, x, bits=4), quantized(network, x, bits=8)
    content, plain = write(narrow), write(wide)
    assert operation_types(content).count("Mul") == 3
    assert "Mul" not in operation_types(plain)
    monkeypatch.setattr(OnnxGraph, "_derive_steps", lambda _: None)
    stored = write(narrow)
    assert len(stored) - len(content) > 4 * (32 + 64 + 48) - 3 * 40
    assert write(wide) == plain
    assert torch.equal(run(content, x)[0], run(stored, x)[0])
    types = optimized_types(content, tmp_path)
    assert types == optimized_types(stored, tmp_path)
    assert types.count("QLinearConv") == 2
    assert "QGemm" in types
