"""Any .tflite file read into an integer graph: what comes back, what is refused, and how hostile bytes end."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from integer_graphs import every_layer, litert, micro, reference
from tflite_graphs import read_file

from haversack.errors import UntrustedError
from haversack.integer import KINDS
from haversack.integer.passes import with_biases, with_float_ports, with_halves, with_pools
from haversack.integer.reference import run
from haversack.runtimes.tflite.read import read
from haversack.runtimes.tflite.write import Flatbuffer, write
from tests.fuzz.mutations import damaged
from tests.integer.single_operations import RECIPES, graph_of

DATA = Path(__file__).parents[3] / "shared" / "data" / "mlperf-tiny"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/mlperf-tiny")
WRITABLE = [(kind, dtype) for kind in sorted(RECIPES) for dtype in ("int8", "int16") if dtype in KINDS[kind].dtypes]


def stored(value):
    """What a file holds of a value, but for its name."""
    grid, data = value.grid, None if value.data is None else (value.data.dtype.name, value.data.tolist())
    steps = None if grid is None else (np.float32(grid.scale).tolist(), grid.zero_point)
    axis = None if grid is None or len(grid.scale) == 1 else grid.axis
    return value.shape, value.dtype, steps, axis, data


def told(graph):
    """Everything that two graphs must share to compute the same, whatever their values are called."""
    numbers = {}
    for name in (*graph.inputs, *(name for each in graph.operations for name in (*each.inputs, *each.outputs))):
        numbers.setdefault(name, len(numbers))
    ends = tuple(tuple(numbers[name] for name in names) for names in (graph.inputs, graph.outputs))
    operations = [
        (
            *(each.kind, {name: np.float32(x) if type(x) is float else x for name, x in each.settings().items()}),
            *(tuple(numbers[name] for name in names if name) for names in (each.inputs, each.outputs)),
        )
        for each in graph.operations
    ]
    return ends, operations, [stored(graph.values[name]) for name in numbers if name]


@pytest.mark.parametrize(("kind", "dtype"), WRITABLE)
def test_one_operation_comes_back_as_it_was_written(kind, dtype):
    for seed in range(5):
        graph = graph_of(kind, dtype, seed)
        assert told(read(write(graph))) == told(with_biases(with_pools(graph)))
        assert told(read(write(graph, micro=(kind, dtype) != ("REDUCE_MAX", "int16"))))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_a_network_comes_back_as_it_was_written(dtype, bits):
    _, graph = every_layer(dtype, bits)
    found = read(write(graph))
    wanted = told(with_halves(with_biases(with_pools(graph))))
    assert told(found) == wanted
    assert found.inputs == graph.inputs
    assert found.outputs == graph.outputs
    grids = [found.values[each.input("weight")].grid for each in found.operations if each.kind == "CONV_2D"]
    assert dtype != "int8" or {grid.bits for grid in grids} == {bits}


@pytest.mark.parametrize("float_io", [False, True])
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_what_was_read_is_written_and_read_again_as_it_is(dtype, float_io):
    once = write(read(write(every_layer(dtype)[1], float_io=float_io)), float_io=float_io)
    assert write(read(once), float_io=float_io) == once


def test_a_file_between_real_numbers_keeps_them():
    _, graph = every_layer()
    found = read(write(graph, float_io=True))
    assert told(found) == told(with_float_ports(graph))
    assert found.values[found.inputs[0]].dtype == "float32"


def test_names_are_the_file_s_and_each_is_there_once():
    graph = graph_of("ADD", "int8", 0)
    for micro_file in (False, True):
        found = read(write(graph, micro=micro_file))
        assert found.inputs == graph.inputs
        assert all(name == value.name for name, value in found.values.items())
        assert {name for each in found.operations for name in (*each.inputs, *each.outputs)} <= found.values.keys()


def test_a_file_that_was_read_computes_what_it_computed():
    draft, graph = every_layer()
    rows = draft.rows()
    assert np.array_equal(reference(read(write(graph)), rows), micro(write(graph), rows))


def spliced(content: bytes, old: bytes, new: bytes) -> bytes:
    assert content.count(old) >= 1
    return content.replace(old, new)


PLAIN = write(every_layer()[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a .tflite file"),
        (b"TFL3" * 9, "damaged"),
        (PLAIN[:4] + b"TFL2" + PLAIN[8:], "not a .tflite file"),
        (PLAIN[: len(PLAIN) // 2], "damaged"),
        (b"\xff" * 4 + PLAIN[4:], "damaged"),
    ],
    ids=["empty", "no file", "another format", "cut short", "a root that is not there"],
)
def test_what_is_no_file_is_refused(content, message):
    with pytest.raises(UntrustedError, match=message.replace(".", r"\.")):
        read(content)


def rebuilt(change):
    """A file whose objects, as flatc generates them, were changed."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(PLAIN, 0))
    change(model, schema)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tensor(model, name):
    return next(each for each in model.subgraphs[0].tensors if name in each.name.decode())


def operator(model, kind):
    from haversack.runtimes.tflite.schema import BUILTINS

    codes = [each.builtinCode for each in model.operatorCodes]
    return next(each for each in model.subgraphs[0].operators if codes[each.opcodeIndex] == BUILTINS[kind].code)


CHANGES = {
    "another version": (lambda model, _: setattr(model, "version", 4), "another version"),
    "two graphs": (lambda model, _: model.subgraphs.append(model.subgraphs[0]), "it holds 2 graphs"),
    "no graph": (lambda model, _: setattr(model, "subgraphs", []), "it holds 0 graphs"),
    "no inputs": (lambda model, _: setattr(model.subgraphs[0], "inputs", []), "no inputs"),
    "a number that no tensor has": (lambda model, _: setattr(model.subgraphs[0], "inputs", [999]), "damaged"),
    "many operators": (
        lambda model, _: model.subgraphs[0].operators.extend(model.subgraphs[0].operators[:1] * 9000),
        "operators",
    ),
    "an unknown operator": (lambda model, _: setattr(model.operatorCodes[0], "builtinCode", 118), "number 118"),
    "another type": (lambda model, _: setattr(tensor(model, "input"), "type", 3), "numbers of type uint8"),
    "an unknown type": (lambda model, _: setattr(tensor(model, "input"), "type", 99), "numbers of type 99"),
    "a variable": (lambda model, _: setattr(tensor(model, "input"), "isVariable", True), "variables"),
    "no size": (lambda model, _: setattr(tensor(model, "input"), "shape", [1, 9, 0, 4]), "has the shape"),
    "a huge size": (lambda model, _: setattr(tensor(model, "input"), "shape", [1, 2**16, 2**16, 4]), "has the shape"),
    "a single number": (lambda model, _: setattr(tensor(model, "input"), "shape", []), "batch of one"),
    "several rows": (lambda model, _: setattr(tensor(model, "input"), "shape", [2, 9, 9, 4]), "batch of one"),
    "many axes": (lambda model, _: setattr(tensor(model, "input"), "shape", [1] * 9), "has the shape"),
    "another shape": (lambda model, _: setattr(tensor(model, "net.0.weight"), "shape", [8, 3, 3, 2]), "bytes"),
    "a step below zero": (lambda model, _: setattr(tensor(model, "input").quantization, "scale", [-1.0]), "steps that"),
    "a huge step": (lambda model, _: setattr(tensor(model, "input").quantization, "scale", [1e38]), "steps that no"),
    "too many steps": (
        lambda model, _: setattr(tensor(model, "input").quantization, "scale", [1.0, 1.0]),
        "zero points",
    ),
    "another zero": (lambda model, _: setattr(tensor(model, "input").quantization, "zeroPoint", [300]), "zero point"),
    "a zero in weights": (
        lambda model, _: setattr(tensor(model, "net.0.weight").quantization, "zeroPoint", [1] * 8),
        "its weight has a zero point",
    ),
    "no grid": (lambda model, _: setattr(tensor(model, "input"), "quantization", None), "its grid is not"),
    "no stride": (lambda model, _: setattr(operator(model, "CONV_2D").builtinOptions, "strideH", 0), "its stride"),
    "a window too large": (
        lambda model, _: setattr(operator(model, "AVERAGE_POOL_2D").builtinOptions, "filterWidth", 99),
        "its window is too large",
    ),
    "another activation": (
        lambda model, _: setattr(operator(model, "CONV_2D").builtinOptions, "fusedActivationFunction", 4),
        "activation of number 4",
    ),
    "shuffled weights": (
        lambda model, _: setattr(operator(model, "FULLY_CONNECTED").builtinOptions, "weightsFormat", 1),
        "weights_format",
    ),
    "a beta that is no number": (
        lambda model, _: setattr(operator(model, "SOFTMAX").builtinOptions, "beta", float("nan")),
        "its beta",
    ),
    "other options": (
        lambda model, _: setattr(operator(model, "CONV_2D"), "builtinOptionsType", 5),
        "another operator",
    ),
    "an order that is none": (
        lambda model, _: model.subgraphs[0].operators.reverse(),
        "which nothing made before",
    ),
    "a result of another shape": (
        lambda model, _: setattr(tensor(model, "net.5"), "shape", [1, 5, 4, 8]),
        "the graph says",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_fit_together_is_refused_in_words(name):
    change, message = CHANGES[name]
    with pytest.raises(UntrustedError, match=message):
        read(rebuilt(change))


def test_many_constants_of_the_same_bytes_are_refused_before_they_are_gone_through():
    tables, reference = Flatbuffer(), "UOffsetTRelative"
    weights = tables.table((0, reference, tables.numbers(np.zeros(4096), "uint8"), 0))
    shape = tables.numbers([1024], "int32")
    tensors = [tables.table((0, reference, shape, 0), (2, "Uint32", index, 0)) for index in range(300)]
    graph = tables.table((0, reference, tables.offsets(tensors), 0))
    graphs, buffers = tables.offsets([graph]), tables.offsets([weights] * 300)
    content = tables.finish(tables.table((0, "Uint32", 3, 0), (2, reference, graphs, 0), (4, reference, buffers, 0)))
    with pytest.raises(UntrustedError, match="its weights overlap"):
        read(content)


def test_a_file_that_flatc_s_classes_packed_anew_is_the_same_graph():
    assert told(read(rebuilt(lambda *_: None))) == told(read(PLAIN))


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32"])
def test_damaged_files_end_in_an_error_of_ours_or_can_be_computed(dtype):
    rng, content, computed = random.Random(0), write(every_layer(dtype)[1]), 0
    for _ in range(400):
        spoilt = damaged(content, rng)
        try:
            graph = read(spoilt)
        except UntrustedError:
            continue
        if sum(np.prod(value.shape) for value in graph.values.values()) < 1 << 20:
            inputs = [np.zeros(graph.values[name].shape, graph.values[name].dtype) for name in graph.inputs]
            with np.errstate(all="ignore"):
                run(graph, inputs)
            assert read(write(graph, float_io=True)).inputs
            computed += 1
    assert computed > 30


@needs_data
@pytest.mark.parametrize("path", sorted(DATA.glob("*.tflite")), ids=lambda path: path.stem)
def test_mlperf_tiny_s_files_are_what_the_generated_classes_say(path):
    if path.stem == "kws_ref_model_float32":
        pytest.skip("integer weights beside real activations: a DEQUANTIZE stands before each layer")
    content = path.read_bytes()
    found, wanted = read(content), read_file(content)
    for ours, theirs in zip(found.operations, wanted.operations, strict=True):
        assert ours.kind == theirs.kind
        assert ours.settings().items() <= theirs.options.items() or not theirs.options
        pairs = zip((*ours.inputs, *ours.outputs), (*theirs.inputs, *theirs.outputs), strict=True)
        for value, other in ((found.values[name], wanted.values[copy]) for name, copy in pairs):
            assert (value.shape, value.dtype) == (other.shape, other.dtype)
            assert value.data is None or np.array_equal(value.data, other.data)
            assert stored(value)[2] == stored(other)[2]


@needs_data
@pytest.mark.parametrize("name", ["ic_resnet8", "ic_resnet8_large", "ad01", "vww_96"])
def test_mlperf_tiny_s_real_files_compute_what_litert_computes(name):
    content = (DATA / f"{name}_float.tflite").read_bytes()
    graph = read(content)
    shape = graph.values[graph.inputs[0]].shape
    scale = 255 if "resnet" in name else 1
    rows = list(np.random.default_rng(0).random((2, *shape), np.float32) * np.float32(scale))
    assert np.allclose(reference(graph, rows), litert(content, rows), rtol=1e-3, atol=1e-4)


@needs_data
def test_integer_weights_beside_real_activations_are_the_numbers_that_they_stand_for():
    content = (DATA / "kws_ref_model_float32.tflite").read_bytes()
    graph = read(content)
    assert sum(each.kind == "DEQUANTIZE" for each in graph.operations) == 5
    rows = list(np.random.default_rng(0).normal(0, 20, (4, 1, 49, 10, 1)).astype(np.float32))
    assert np.abs(reference(graph, rows) - litert(content, rows)).max() < 0.05
