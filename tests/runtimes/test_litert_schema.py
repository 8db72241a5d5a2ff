"""Our few numbers of TFLite's schema against the classes that flatc generates from it."""

from dataclasses import replace

import numpy as np
import pytest
import tflite
from integer_graphs import Draft, every_layer
from tflite_graphs import UNIONS, getters, options_of, read_file

from haversack.grid import Grid
from haversack.integer import KINDS, Operation, Value
from haversack.runtimes.tflite import schema
from haversack.runtimes.tflite.schema import BUILTINS, Typed, version
from haversack.runtimes.tflite.write import write


@pytest.mark.parametrize("kind", sorted(BUILTINS))
def test_an_operator_s_codes_are_the_schema_s(kind):
    builtin = BUILTINS[kind]
    assert builtin.code == getattr(tflite.BuiltinOperator, kind)
    if builtin.fields:
        options = getattr(tflite, UNIONS[builtin.options])
        assert all(hasattr(options, name) for field in builtin.fields for name in getters(field.option))


SAMPLES = {
    "activation": "RELU6",
    "padding": "VALID",
    "beta": 0.75,
    "alpha": 0.25,
    "depth_multiplier": 3,
    "axis": 2,
    "num_splits": 5,
}


@pytest.mark.parametrize("kind", sorted(kind for kind, builtin in BUILTINS.items() if builtin.fields))
def test_every_option_is_read_back_as_it_was_written(kind):
    wanted, fixed = {}, {field.option: field.fixed for field in BUILTINS[kind].fields if field.fixed is not None}
    for index, field in enumerate(field for field in BUILTINS[kind].fields if field.fixed is None):
        pair = (10 + index, 20 + index)
        flag_or_number = True if field.width == "Bool" else index + 1
        wanted[field.option] = SAMPLES.get(field.option, pair if len(field.slots) == 2 else flag_or_number)
    draft = Draft((1, 2, 2, 2), "int8" if "int8" in KINDS[kind].dtypes else "float32")
    weights = draft.weights((2, 1, 1, 2), 0)
    inputs = [draft.input, *weights] if "CONV" in kind or kind == "FULLY_CONNECTED" else [draft.input, draft.input]
    draft.then(kind, inputs, (1, 2, 2, 2), "output", **wanted)
    model = tflite.Model.GetRootAs(write(draft.graph("output")))
    operator = model.Subgraphs(0).Operators(0)
    assert operator.BuiltinOptionsType() == BUILTINS[kind].options
    assert options_of(operator, kind) == wanted | fixed


def test_a_file_reads_back_as_the_graph_it_was_written_from():
    _, graph = every_layer()
    content = write(graph)
    found = read_file(content)
    assert [each.kind for each in found.operations] == [each.kind for each in graph.operations]
    for ours, theirs in zip(graph.operations, found.operations, strict=True):
        pairs = zip((*ours.inputs, *ours.outputs), (*theirs.inputs, *theirs.outputs), strict=True)
        for value, copy in ((graph.values[name], found.values[other]) for name, other in pairs):
            assert (value.shape, value.dtype) == (copy.shape, copy.dtype)
            assert value.data is None or np.array_equal(value.data, copy.data)
            if value.grid:
                assert np.array_equal(np.float32(value.grid.scale), np.float32(copy.grid.scale))
                assert (value.grid.zero_point, value.grid.axis or 0) == (copy.grid.zero_point, copy.grid.axis or 0)


def test_a_file_is_marked_and_its_weights_are_aligned():
    _, graph = every_layer()
    content = write(graph)
    assert tflite.Model.ModelBufferHasIdentifier(content, 0)
    model = tflite.Model.GetRootAs(content)
    assert model.Version() == schema.SCHEMA_VERSION
    assert model.Buffers(0).DataLength() == 0
    base = np.frombuffer(content, np.uint8).ctypes.data
    starts = [model.Buffers(index).DataAsNumpy().ctypes.data - base for index in range(1, model.BuffersLength())]
    assert starts
    assert not [start for start in starts if start % schema.BUFFER_ALIGNMENT]


def value(dtype, shape=(1, 4, 4, 4), scale=0.5):
    return Value("v", shape, dtype, None if dtype == "float32" else Grid(8, True, (scale,), (0,)))


@pytest.mark.parametrize(
    ("kind", "dtypes", "options", "wanted"),
    [
        ("CONV_2D", ["float32", "float32"], {}, 1),
        ("CONV_2D", ["int8", "int8"], {}, 3),
        ("CONV_2D", ["int16", "int8"], {}, 4),
        ("DEPTHWISE_CONV_2D", ["int8", "int8"], {}, 3),
        ("DEPTHWISE_CONV_2D", ["float32", "float32"], {"dilation": (2, 2)}, 2),
        ("FULLY_CONNECTED", ["int8", "int8", "int32"], {}, 4),
        ("FULLY_CONNECTED", ["int8", "int8", "int32"], {"keep_num_dims": True}, 5),
        ("FULLY_CONNECTED", ["float32", "float32"], {}, 6),
        ("TRANSPOSE_CONV", ["int32", "int8", "int8", "int32"], {}, 3),
        ("RESIZE_NEAREST_NEIGHBOR", ["int8", "int32"], {"half_pixel_centers": True}, 3),
        ("SPLIT", ["int32", "int8"], {}, 2),
        ("ADD", ["int8", "int8"], {}, 2),
        ("MEAN", ["int16", "int32"], {}, 3),
        ("QUANTIZE", ["float32"], {}, 1),
    ],
)
def test_versions_are_those_of_tensorflow(kind, dtypes, options, wanted):
    """tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc, by hand."""
    inputs = [value(dtype) for dtype in dtypes]
    typed = Typed(Operation(kind, ("v",) * len(inputs), ("v",), options), inputs, [value("int8")])
    assert version(typed) == wanted
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        assert version(replace(typed, has_int4_weights=True)) == (10 if kind == "FULLY_CONNECTED" else 7)


@pytest.mark.parametrize(("steps", "few", "wanted"), [(4, False, 12), (4, True, 12), (1, False, 9), (1, True, 10)])
def test_layers_that_round_what_they_read_ask_for_later_versions(steps, few, wanted):
    weight = Value("w", (4, 4), "int8", Grid(8, True, (0.5,) * steps, (0,) * steps, 0 if steps > 1 else None))
    operation = Operation("FULLY_CONNECTED", ("v", "w"), ("v",), {"asymmetric_quantize_inputs": True})
    assert version(Typed(operation, [value("float32"), weight], [value("float32")], few)) == wanted


def test_a_product_that_grows_and_a_grouped_convolution_ask_for_later_versions():
    growing = [value("int8", scale=1.0), value("int8", scale=1.0)]
    operation = Operation("MUL", ("v", "v"), ("v",))
    assert version(Typed(operation, growing, [value("int8", scale=0.5)])) == 3
    assert version(Typed(operation, growing, [value("int8", scale=2.0)])) == 2
    grouped = [value("int8", (1, 4, 4, 4)), value("int8", (4, 1, 1, 2))]
    assert version(Typed(Operation("CONV_2D", ("v", "v"), ("v",)), grouped, [value("int8")])) == 6
