"""The .tflite writer: its files in LiteRT and LiteRT for Microcontrollers against torch and the integer reference."""

from dataclasses import replace

import numpy as np
import pytest
import tflite
import torch
from integer_graphs import Draft, every_layer, litert, micro, reference
from torch import nn

from haversack.errors import ExportError
from haversack.graph.inference import lower
from haversack.grid import Grid
from haversack.integer import Operation, Value
from haversack.integer.passes import with_float_ports, with_integer_ports
from haversack.integer.read import read
from haversack.model import Model
from haversack.runtimes.tflite import LITERT, MICRO, schema
from haversack.runtimes.tflite.write import write


def test_an_int8_file_computes_the_same_bytes_in_litert_s_reference_and_tflite_micro():
    draft, graph = every_layer()
    rows, content = draft.rows(), write(graph)
    wanted = reference(graph, rows)
    assert np.array_equal(micro(content, rows), wanted)
    assert np.abs(litert(content, rows).astype(int) - wanted).max() <= 2
    # Of some fully connected layers LiteRT's reference rounds a sum the other way: all before them is the same.
    assert np.abs(litert(content, rows, reference=True).astype(int) - wanted).max() <= 1
    place = [each.kind for each in graph.operations].index("FULLY_CONNECTED")
    draft.operations = list(graph.operations[:place])
    before = draft.graph(graph.operations[place].inputs[0])
    assert np.array_equal(litert(write(before), rows, reference=True), reference(before, rows))


def test_an_int16_file_computes_the_same_numbers_in_tflite_micro_and_nearly_in_litert():
    draft, graph = every_layer("int16")
    rows, content = draft.rows(), write(graph)
    wanted = reference(graph, rows)
    assert np.array_equal(micro(content, rows), wanted)
    assert np.abs(litert(content, rows).astype(int) - wanted).max() <= 2


def test_a_float_file_computes_what_torch_computes():
    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False)),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, 7), nn.Softmax(1)),
    ).eval()
    images = torch.rand(3, 3, 16, 16)
    lowered = lower(Model(module, (images[:1],)))
    rows = list(images.permute(0, 2, 3, 1).unsqueeze(1).numpy())
    for runtime, run in ((LITERT, litert), (MICRO, micro)):
        found = run(runtime.write(lowered), rows)[:, 0]
        assert np.allclose(found, module(images).detach().numpy(), atol=1e-5)


def test_a_file_by_hand_adds_as_arithmetic_says():
    draft = Draft((1, 4))
    one, half = Grid(8, True, (1.0,), (0,)), Grid(8, True, (0.5,), (-3,))
    draft.value("input", (1, 4), one)
    draft.then("ADD", ["input", draft.constant(np.array([[1, 2, 3, -4]], np.int8), one)], (1, 4), "output", half)
    content = write(draft.graph("output"))
    wanted = [[2 * (10 + 1) - 3, 2 * (20 + 2) - 3, -128, 2 * (0 - 4) - 3]]
    row = np.array([[10, 20, -100, 0]], np.int8)
    assert litert(content, [row])[0].tolist() == micro(content, [row])[0].tolist() == wanted


def test_equal_graphs_give_equal_bytes_and_equal_weights_stand_once():
    _, graph = every_layer()
    assert write(graph) == write(replace(graph, values=dict(reversed(graph.values.items()))))
    draft = Draft((1, 8, 8, 16))
    weights = draft.weights((16, 3, 3, 16), 0)
    conv = {"stride": (1, 1), "padding": "SAME"}
    x = draft.then("CONV_2D", [draft.input, *weights], (1, 8, 8, 16), "once", **conv)
    alone = len(write(draft.graph("once")))
    copies = [draft.constant(draft.values[name].data.copy(), draft.values[name].grid) for name in weights]
    draft.then("CONV_2D", [x, *copies], (1, 8, 8, 16), "twice", **conv)
    assert len(write(draft.graph("twice"))) - alone < 300 < 16 * 9 * 16


def test_what_stands_beside_the_weights_is_little():
    _, graph = every_layer()
    numbers = sum(value.data.nbytes for value in graph.constants())
    assert len(write(graph, micro=True)) - numbers < 3000
    assert len(write(graph)) - numbers < 4500


def test_for_a_microcontroller_inputs_and_outputs_keep_their_names_and_inner_values_have_none():
    from ai_edge_litert.interpreter import Interpreter

    _, graph = every_layer()
    for content in (write(graph, micro=True), write(graph, float_io=True, micro=True)):
        interpreter = Interpreter(model_content=content)
        details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
        assert [each["name"] for each in details] == ["input", "output"]
        inner = {each["name"] for each in interpreter.get_tensor_details()} - {"input", "output"}
        assert all(len(name) <= 3 for name in inner)
        assert not interpreter.get_signature_list()


def test_float_io_takes_and_gives_real_numbers():
    draft, graph = every_layer()
    rows = draft.rows()
    given, made = graph.values["input"].grid, graph.values["output"].grid
    real = [given.dequantize(torch.from_numpy(row)).numpy() for row in rows]
    wanted = made.dequantize(torch.from_numpy(reference(graph, rows))).numpy()
    content = write(graph, float_io=True)
    assert np.array_equal(micro(content, real), wanted)
    assert np.abs(litert(content, real, reference=True) - wanted).max() <= made.scale[0]


def test_ports_go_to_float_and_back():
    _, graph = every_layer()
    floating = with_float_ports(graph)
    assert floating.operations[0].kind == "QUANTIZE"
    assert floating.operations[-1].kind == "DEQUANTIZE"
    assert write(with_integer_ports(floating)) == write(floating) == write(graph)


def test_an_input_that_is_also_read_as_a_real_number_stays_one():
    _, graph = every_layer()
    floating = with_float_ports(graph)
    values = {**floating.values, "relu": Value("relu", floating.values["input"].shape, "float32")}
    operations = (*floating.operations, Operation("RELU", ("input",), ("relu",)))
    both = replace(floating, values=values, operations=operations, outputs=("output", "relu"))
    assert with_integer_ports(both).values["input"].dtype == "float32"


def test_every_second_row_is_picked_by_a_pool_and_other_slices_stay():
    tflite = pytest.importorskip("tflite", reason="the schema package is not installed")

    for begin, kind in ((0, "MAX_POOL_2D"), (1, "STRIDED_SLICE")):
        draft = Draft((1, 8, 8, 4))
        bounds = ([0, begin, begin, 0], [1, 8, 8, 4], [1, 2, 2, 1])
        inputs = [draft.input, *(draft.constant(np.array(each, np.int32)) for each in bounds)]
        draft.then("STRIDED_SLICE", inputs, (1, 4, 4, 4), "output")
        rows, content = draft.rows(), write(draft.graph("output"))
        assert np.array_equal(litert(content, rows), np.stack(rows)[:, :, begin::2, begin::2])
        code = tflite.Model.GetRootAs(content).OperatorCodes(0).BuiltinCode()
        assert code == getattr(tflite.BuiltinOperator, kind)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_a_convolution_without_bias_runs(kind, dtype):
    """LiteRT crashed on the first kind and refused the second."""
    draft = Draft((1, 5, 5, 4), dtype)
    depthwise = kind == "DEPTHWISE_CONV_2D"
    weights, _ = draft.weights((1, 3, 3, 4), 3) if depthwise else draft.weights((6, 3, 3, 4), 0)
    options = {"stride": (1, 1), "padding": "SAME"} | ({"depth_multiplier": 1} if depthwise else {})
    draft.then(kind, [draft.input, weights, ""], (1, 5, 5, 4 if depthwise else 6), "output", **options)
    graph, rows = draft.graph("output"), draft.rows()
    content = write(graph)
    assert np.array_equal(micro(content, rows), litert(content, rows, reference=True))
    assert np.abs(litert(content, rows).astype(int) - reference(graph, rows)).max() <= 1


def test_a_grouped_convolution_runs_everywhere():
    draft = Draft((1, 5, 5, 8))
    inputs = [draft.input, *draft.weights((6, 3, 3, 4), 0)]
    draft.then("CONV_2D", inputs, (1, 5, 5, 6), "output", stride=(1, 1), padding="SAME")
    graph, rows = draft.graph("output"), draft.rows()
    assert np.array_equal(micro(write(graph), rows), reference(graph, rows))
    assert np.array_equal(litert(write(graph), rows, reference=True), reference(graph, rows))


def broken(kind, **options):
    draft = Draft((1, 4))
    draft.then(kind, [draft.input], (1, 4), "output", **options)
    return draft.graph("output")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (broken("FFT"), r"net\.0: the \.tflite writer has no operator FFT"),
        (broken("SOFTMAX"), r"net\.0: SOFTMAX does not say its beta"),
        (broken("SOFTMAX", beta=1.0, axis=1), r"net\.0: SOFTMAX has no option axis"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_layer(graph, message):
    with pytest.raises(ExportError, match=message):
        write(graph)


def test_a_kernel_that_no_runtime_has_is_refused():
    draft = Draft((1, 4), "int16")
    draft.then("HARD_SWISH", [draft.input], (1, 4), "output")
    with pytest.raises(ExportError, match=r"net\.0: no runtime of \.tflite files has HARD_SWISH on int16"):
        write(draft.graph("output"))


def test_a_kernel_that_only_litert_has_is_refused_for_microcontrollers():
    """tflite-micro took the file and failed when it ran."""
    draft = Draft((1, 3, 4), "int16")
    axes = draft.constant(np.array([1], np.int32))
    draft.then("REDUCE_MAX", [draft.input, axes], (1, 4), "output", keep_dims=False)
    graph, rows = draft.graph("output"), draft.rows()
    assert np.array_equal(litert(write(graph), rows), reference(graph, rows))
    with pytest.raises(ExportError, match=r"net\.0: LiteRT for Microcontrollers has no REDUCE_MAX on int16"):
        write(graph, micro=True)


def test_a_number_type_that_tflite_lacks_is_refused():
    draft = Draft((1, 4))
    draft.then("RESHAPE", [draft.input, draft.constant(np.array([4], np.uint16))], (4,), "output")
    with pytest.raises(ExportError, match="no numbers of type uint16"):
        write(draft.graph("output"))


def test_a_file_beyond_2_gb_is_refused():
    draft = Draft((1, 4), "float32")
    huge = np.broadcast_to(np.float32(0.1), (2**15, 2**14 + 1))
    draft.then("FULLY_CONNECTED", [draft.input, draft.constant(huge)], (1, 2**15), "output")
    with pytest.raises(ExportError, match=r"2\.1 GB, and a \.tflite file holds at most 2 GB"):
        write(draft.graph("output"))


def test_the_row_tells_how_inputs_lie():
    lowered = lower(Model(nn.Conv2d(3, 4, 3).eval(), (torch.rand(1, 3, 8, 8),)))
    graph = read(lowered)
    assert LITERT.orders(lowered) == (graph.input_orders, graph.output_orders)
    assert schema.LARGEST_FILE_BYTES < 2**31


def test_large_weights_stand_once_and_aligned_and_compute_what_torch_computes():
    torch.manual_seed(0)
    once, again = nn.Linear(131, 131), nn.Linear(131, 131)
    again.load_state_dict(once.state_dict())
    convolutions = [nn.Conv2d(3, 65, 3), nn.ReLU(), nn.Conv2d(65, 131, 3), nn.ReLU()]
    module = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), once, nn.ReLU(), again).eval()
    images = torch.rand(3, 3, 8, 8)
    content = LITERT.write(lower(Model(module, (images[:1],))))
    stored = sum(each.nbytes for layer in (*convolutions, once) for each in layer.parameters())
    assert stored < len(content) < stored + 4000
    model = tflite.Model.GetRootAs(content)
    base = np.frombuffer(content, np.uint8).ctypes.data
    buffers = [model.Buffers(index).DataAsNumpy() for index in range(1, model.BuffersLength())]
    assert all((each.ctypes.data - base) % schema.BUFFER_ALIGNMENT == 0 for each in buffers)
    rows = list(images.permute(0, 2, 3, 1).unsqueeze(1).numpy())
    for run in (litert, micro):
        assert np.allclose(run(content, rows)[:, 0], module(images).detach().numpy(), atol=1e-5)
