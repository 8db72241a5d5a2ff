"""Files that take an image's bytes: which input they have, and that integers are what float inputs would become."""

from dataclasses import replace

import onnx
import pytest
import torch
from onnx_files import as_run
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import MeasureError
from haversack.graph.inference import lower
from haversack.graph.pairs import output_step
from haversack.integer.read import read
from haversack.model import Model
from haversack.preparing import Prepare, Prepared
from haversack.runtimes import coded, host, rows
from haversack.runtimes.onnx.write import write
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_training import QuantizeTraining
from haversack.wiring import rewired

MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAW = torch.randint(0, 256, (64, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
RUNTIMES = [row for row in rows() if row.is_installed and not row.optional]
ZERO, MIDDLE, EACH = Prepare(), Prepare(mean=128 / 255, std=0.5), Prepare(mean=MEANS, std=DEVIATIONS)


def network(padding: int) -> nn.Module:
    torch.manual_seed(0)
    first = nn.Conv2d(3, 8, 3, padding=padding, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    second = nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*first, *second, nn.Linear(8, 5)).eval()


def laid(prepare: Prepare) -> Tensor:
    return RAW.movedim(1, -1).contiguous() if prepare.layout == "NHWC" else RAW


def of_bytes(prepare: Prepare, padding: int = 1) -> Model:
    return Model(rewired(network(padding), (), prepare=prepare), (laid(prepare)[:1],))


def quantized(model: Model, inputs: Tensor, activations: str = "uint8") -> Model:
    task = Task(list, lambda: [inputs], lambda predict: 0.5)
    return QuantizeStatic(activations=activations, correct_bias=False).apply(model, task)


def input_type(content: bytes) -> int:
    return int(onnx.load_from_string(content).graph.input[0].type.tensor_type.elem_type)


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("prepare", [ZERO, MIDDLE], ids=["zero", "middle"])
@torch.no_grad()
def test_bytes_are_the_integers_that_float_inputs_become(prepare, activations):
    """The same grids, and inputs normalized before: every output is the same, to the bit."""
    ours = quantized(of_bytes(prepare), RAW, activations)
    normalized = Prepared(prepare)(RAW)
    floats = quantized(Model(network(1), (normalized[:1],)), normalized, activations)
    names = [name for name in floats.grids if name not in ours.grids]
    (theirs,) = (grid for name, grid in ours.grids.items() if name not in floats.grids)
    floats = replace(floats, grids={**floats.grids, names[0]: theirs, **common(ours, floats)})
    assert len(names) == 1
    for_bytes, for_floats = write(lower(ours)), write(lower(floats))
    assert (input_type(for_bytes), input_type(for_floats)) == (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT)
    assert torch.equal(host.load(for_bytes)(RAW), host.load(for_floats)(normalized))


def common(ours: Model, floats: Model) -> dict:
    return {name: grid for name, grid in ours.grids.items() if name in floats.grids}


@pytest.mark.parametrize(
    ("prepare", "padding", "layers"),
    [(ZERO, 1, 2), (MIDDLE, 1, 2), (EACH, 0, 2), (EACH, 1, 3), (replace(EACH, layout="NHWC"), 1, 3)],
)
@torch.no_grad()
def test_nothing_is_quantized_before_the_first_layer_of_an_unsigned_file(prepare, padding, layers, tmp_path):
    model = quantized(of_bytes(prepare, padding), laid(prepare))
    lowered = lower(model)
    content = write(lowered)
    ran = as_run(content, tmp_path)
    assert ran["QLinearConv"] == layers
    assert not {"QuantizeLinear", "Cast", "Mul", "Add", "Sub", "Conv"} & ran.keys()
    assert ran["DequantizeLinear"] == 1
    step = output_step(lowered)
    assert step is not None
    assert (host.load(content)(laid(prepare)) - lowered(laid(prepare))).abs().max() <= 1.01 * step


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize(
    "prepare", [EACH, Prepare(mean=0.5, std=0.5), Prepare(mean=(0.1, 0.7, 0.33), std=(0.9, 0.11, 0.4))]
)
@torch.no_grad()
def test_a_normalization_before_zeros_gives_the_integers_that_float_inputs_become(prepare, activations):
    """The same grids, and inputs normalized before: every output is the same, to the bit."""
    ours, normalized = quantized(of_bytes(prepare), RAW, activations), Prepared(prepare)(RAW)
    floats = quantized(Model(network(1), (normalized[:1],)), normalized, activations)
    (name,) = (name for name in floats.grids if name not in ours.grids)
    floats = replace(floats, grids={**common(ours, floats), name: ours.grids["prepare"]})
    assert torch.equal(host.load(write(lower(ours)))(RAW), host.load(write(lower(floats)))(normalized))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda row: row.name)
@pytest.mark.parametrize("numbers", ["float32", "int8"])
@pytest.mark.parametrize("prepare", [MIDDLE, EACH, replace(MIDDLE, layout="NHWC")])
@torch.no_grad()
def test_every_runtime_takes_the_bytes(runtime, numbers, prepare):
    if numbers not in runtime.number_formats:
        pytest.skip(f"{runtime.title} runs no {numbers} files")
    model = of_bytes(prepare)
    model = quantized(model, laid(prepare), "int8") if numbers == "int8" else model
    lowered = lower(model)
    orders = runtime.orders(lowered) if runtime.orders else None
    found = host.load(runtime.write(lowered), runtime=runtime.name, orders=orders)(laid(prepare))
    wanted = lowered(laid(prepare))
    assert (found - wanted).abs().max() <= (1e-5 if numbers == "float32" else 1.01 * (output_step(lowered) or 0))


@pytest.mark.parametrize(("prepare", "scale"), [(MIDDLE, 2 / 255), (EACH, 1.0)])
def test_a_tflite_file_takes_bytes_less_128_as_they_are(prepare, scale):
    graph = read(lower(quantized(of_bytes(prepare), RAW)))
    (port,) = (graph.values[name] for name in graph.inputs)
    assert port.dtype == "int8"
    assert port.grid is not None
    assert port.grid.scale == (pytest.approx(scale),)
    assert port.grid.zero_point == (((prepare.zero or 0) - 128),)
    assert [each.kind for each in graph.operations][:1] == [("CONV_2D" if prepare is MIDDLE else "DEPTHWISE_CONV_2D")]


def test_a_file_of_bytes_is_timed_and_refuses_fractions():
    content = write(lower(quantized(of_bytes(EACH), RAW)))
    (timing,) = host.time_files([content], seconds=0.05)
    assert timing.latency_ms.value > 0
    with pytest.raises(MeasureError, match="uint8"):
        host.load(content)(RAW.float() / 255)


class Padded(nn.Module):
    """Its image is padded on two sides alone, as TensorFlow does, which no convolution takes in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = network(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(F.pad(x, (0, 1, 0, 1)))


@pytest.mark.parametrize("runtime", RUNTIMES, ids=lambda row: row.name)
@pytest.mark.parametrize("numbers", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("prepare", [ZERO, MIDDLE, EACH], ids=["zero", "middle", "each"])
@torch.no_grad()
def test_zeros_around_the_image_are_the_byte_that_stands_for_zero(runtime, numbers, prepare):
    if numbers.replace("u", "") not in runtime.number_formats:
        pytest.skip(f"{runtime.title} runs no {numbers} files")
    model = Model(rewired(Padded().eval(), (), prepare=prepare), (RAW[:1],))
    wanted = Padded().eval()(Prepared(prepare)(RAW))
    model = model if numbers == "float32" else quantized(model, RAW, numbers)
    lowered = lower(model)
    orders = runtime.orders(lowered) if runtime.orders else None
    found = host.load(runtime.write(lowered), runtime=runtime.name, orders=orders)(RAW)
    assert (found - lowered(RAW)).abs().max() <= (1e-5 if numbers == "float32" else 1.01 * (output_step(lowered) or 0))
    assert (found - wanted).abs().max() <= (1e-5 if numbers == "float32" else 0.03) * max(1, float(wanted.abs().max()))


def test_training_on_grids_begins_with_the_bytes_as_they_are_and_leaves_them_so():
    model, labels = of_bytes(MIDDLE), torch.arange(len(RAW)) % 5
    task = Task(lambda: [(RAW, labels)], lambda: [RAW], lambda predict: 0.5, prepare=MIDDLE)
    trained = QuantizeTraining(epochs=1, activations="uint8").apply(model, task)
    lowered = lower(trained)
    (reader,) = next(iter(lowered.graph.find_nodes(op="placeholder"))).users
    assert reader.args[1:3] == (pytest.approx(2 / 255), 128)
    content = write(lowered)
    assert (host.load(content)(RAW) - lowered(RAW)).abs().max() <= 1.01 * (output_step(lowered) or 0)


def test_the_coded_file_of_weights_that_took_the_normalization_in_goes_back_into_the_network():
    ours = quantized(of_bytes(EACH, 0), RAW)
    assert "prepare.0.weight" in ours.grids
    again = coded.restored(coded.write(ours), ours)
    assert write(lower(again)) == write(lower(ours))
