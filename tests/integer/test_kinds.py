"""The table of kinds: every graph that we make or read is held to it, and what it does not allow is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from single_operations import RECIPES, graph_of

import haversack
from haversack.errors import ExportError
from haversack.grid import Grid
from haversack.integer import KINDS, Operation, Value, check
from haversack.integer.kinds import ACTIVATIONS, PADDINGS
from haversack.integer.passes import with_float_ports
from haversack.integer.reference import TABLE
from haversack.integer.shapes import check_shapes
from haversack.runtimes.tflite.schema import BUILTINS

READER = Path(haversack.__file__).parent / "integer" / "read"


def test_every_kind_is_computed_and_written_and_no_other():
    assert KINDS.keys() == TABLE.keys() == BUILTINS.keys()


def test_the_reader_of_networks_names_no_other_kind():
    named = {word for file in READER.glob("*.py") for word in re.findall(r'"([A-Z][A-Z0-9_]+)"', file.read_text())}
    assert named - KINDS.keys() <= {*ACTIVATIONS, *PADDINGS}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_option_but_for_those_of_one_number_is_the_schema_s_and_has_its_default(kind):
    fields = {field.option: field for field in BUILTINS[kind].fields if field.fixed is None}
    assert fields.keys() == {option.name for option in KINDS[kind].options}
    for option in KINDS[kind].options:
        default = {"NONE": 0, (1, 1): 1}.get(option.default, option.default)
        assert default is None or default == fields[option.name].default


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_every_random_graph_passes(kind, dtype):
    for seed in range(20):
        graph = graph_of(kind, dtype, seed)
        if dtype in KINDS[kind].dtypes:
            check_shapes(graph)
            check_shapes(with_float_ports(graph))
        else:
            with pytest.raises(ExportError, match=f"there is no {kind} on {dtype}"):
                check(graph)


def spoilt(kind, /, **changes):
    graph = graph_of(kind, "int8", 3)
    return replace(graph, operations=(replace(graph.operations[0], **changes),))


def with_value(graph, name, **changes):
    return replace(graph, values={**graph.values, name: replace(graph.values[name], **changes)})


LAYER = graph_of("FULLY_CONNECTED", "int8", 3)
X, WEIGHT = LAYER.operations[0].inputs[:2]


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (spoilt("RELU", kind="WHILE"), "layer: the integer graph has no WHILE"),
        (spoilt("SOFTMAX", options={}), "SOFTMAX does not say its beta"),
        (spoilt("SOFTMAX", options={"beta": "1"}), "SOFTMAX cannot have '1' as its beta"),
        (spoilt("SOFTMAX", options={"beta": 1.0, "axis": 1}), "SOFTMAX has no option axis"),
        (spoilt("MAX_POOL_2D", options={"filter": (1, 1, 1), "stride": (1, 1), "padding": "SAME"}), "as its filter"),
        (spoilt("MAX_POOL_2D", options={"filter": (1, 1), "stride": (1, 1), "padding": "ZERO"}), "as its padding"),
        (spoilt("SPLIT", options={"num_splits": 9}), "SPLIT makes ., and should make 9 values"),
        (spoilt("ADD", inputs=("input0",)), "ADD reads 1 values, and needs 2"),
        (spoilt("RELU", inputs=("input0", "input0")), "RELU reads 2 values, more than it knows"),
        (spoilt("RELU", inputs=("output0",)), "'output0' as its input, which nothing made before"),
        (spoilt("RELU", inputs=("nothing",)), "'nothing' as its input, which nothing made before"),
        (spoilt("RELU", outputs=("nothing",)), "RELU makes nothing, and should make 1"),
        (spoilt("RELU", outputs=("input0",)), "RELU makes a value that is there already"),
        (spoilt("PAD", inputs=("input0", "input0")), "its paddings is int8"),
        (replace(LAYER, outputs=("nothing",)), "no operation makes nothing"),
        (with_value(LAYER, WEIGHT, data=None), f"{WEIGHT}' as its weight, which nothing made"),
        (with_value(LAYER, WEIGHT, dtype="float32", grid=None), "its weight is float32, which does not go with int8"),
        (with_value(LAYER, WEIGHT, grid=Grid(8, True, (1.0,), (1,))), "its weight has a zero point"),
        (with_value(LAYER, X, grid=None), "is int8, and its grid is not"),
        (with_value(LAYER, X, dtype="float32"), "its input is float32, and should be int8"),
    ],
)
def test_what_the_table_does_not_allow_is_refused_in_words(graph, message):
    with pytest.raises(ExportError, match=message):
        check(graph)


def test_weights_are_constants_or_made_of_some():
    values = {
        "x": Value("x", (1, 2), "float32"),
        "w": Value("w", (2, 2), "int8", Grid(8, True, (0.5,), (0,)), np.ones((2, 2), np.int8)),
        "real": Value("real", (2, 2), "float32"),
        "y": Value("y", (1, 2), "float32"),
    }
    layer = Operation("FULLY_CONNECTED", ("x", "real"), ("y",))
    widened = Operation("DEQUANTIZE", ("w",), ("real",))
    graph = replace(LAYER, values=values, operations=(widened, layer), inputs=("x",), outputs=("y",))
    check(graph)
    with pytest.raises(ExportError, match="computes its weight, which must be a constant"):
        check(replace(graph, operations=(layer,), inputs=("x", "real")))
