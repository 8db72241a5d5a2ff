"""The NumPy reference on whole networks: the MLPerf Tiny files in tflite-micro, batches, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from single_operations import Draft, graph_of, rows_for
from tflite_files import Micro, mismatching, tensor_numbers

from haversack.errors import MeasureError
from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value
from haversack.integer.reference import run
from haversack.integer.shapes import check_shapes
from haversack.runtimes.tflite.read import read

DATA = Path(__file__).parents[3] / "shared/data/mlperf-tiny"
FILES = ("ad01_int8", "ic_resnet8_int8", "kws_ref_model_int8", "vww_96_int8")


def smooth_rows(graph: IntegerGraph, rows: int) -> np.ndarray:
    """Noise saturates the networks' outputs; half of the rows are dim and lie around one brightness."""
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (rows, *graph.values[graph.inputs[0]].shape[1:]))
    x[::2] = np.clip(x[::2] // 8 + rng.integers(-100, 100, (len(x[::2]),) + (1,) * (x.ndim - 1)), -128, 127)
    return x.astype(np.int8)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rows", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_every_inner_value_of_the_mlperf_tiny_files_equals_tflite_micro(name: str, rows: int) -> None:
    path = DATA / f"{name}.tflite"
    if not path.exists():
        pytest.skip(f"{path.name} is not in ../shared/data")
    data = path.read_bytes()
    graph, micro, numbers = read(data), Micro(data), tensor_numbers(data)
    x = smooth_rows(graph, rows)
    inner = [operation.outputs[0] for operation in graph.operations]
    found = run(graph, [x], inner)[len(graph.outputs) :]
    bad = 0
    for row in range(rows):
        wanted = micro.run([x[row : row + 1]], [numbers[each] for each in inner])
        bad += sum(mismatching(a[row], b) for a, b in zip(found, wanted, strict=True))
    assert bad == 0


@pytest.mark.parametrize("kind", ["CONV_2D", "CONCATENATION", "MEAN", "SPLIT", "SOFTMAX", "STRIDED_SLICE"])
def test_a_batch_gives_what_its_rows_give_one_by_one(kind: str) -> None:
    graph = graph_of(kind, "int8", 5)
    x = rows_for(graph, 40, 5)
    whole = run(graph, x)
    rows = [run(graph, [array[row : row + 1] for array in x]) for row in range(40)]
    for index, output in enumerate(whole):
        assert (output == np.concatenate([row[index] for row in rows])).all()


def test_rows_do_not_mix_where_an_operation_touches_the_first_axis() -> None:
    grid = Grid(8, True, (0.1,), (0,))
    draft = Draft(0, "int8")
    x = draft.input((1, 4), grid)
    graph = draft.finish("TRANSPOSE", [x, draft.constant([1, 0])], (4, 1), grid)
    x = np.arange(12, dtype=np.int8).reshape(3, 4)
    assert run(graph, [x])[0].reshape(-1).tolist() == list(range(12))


def test_constants_serve_every_row_of_a_batch() -> None:
    grid = Grid(8, True, (0.1,), (3,))
    draft = Draft(0, "int8")
    names = [draft.input((1, 2), grid), draft.constant([[7]], "int8", grid)]
    graph = draft.finish("CONCATENATION", names, (1, 3), grid, axis=1)
    x = np.arange(6, dtype=np.int8).reshape(3, 2)
    assert run(graph, [x])[0].tolist() == [[0, 1, 7], [2, 3, 7], [4, 5, 7]]


def joined_and_cut(begin: int) -> IntegerGraph:
    """An input of four numbers becomes four rows of one, below which stands a fifth; one of them is taken."""
    grid = Grid(8, True, (0.1,), (0,))
    draft = Draft(0, "int8")
    x = draft.input((1, 4), grid)
    last = draft.constant([[7]], "int8", grid)
    numbers = [draft.constant(each) for each in ([4, 1], [begin, 0], [begin + 1, 1], [1, 1])]
    shapes = {"column": (4, 1), "joined": (5, 1), "taken": (1, 1)}
    draft.values.update({name: Value(name, shape, "int8", grid) for name, shape in shapes.items()})
    operations = (
        Operation("RESHAPE", (x, numbers[0]), ("column",)),
        Operation("CONCATENATION", ("column", last), ("joined",), {"axis": 0}),
        Operation("STRIDED_SLICE", ("joined", *numbers[1:]), ("taken",)),
    )
    return IntegerGraph(draft.values, operations, (x,), ("taken",), ((0, 1),), ((0, 1),))


@pytest.mark.parametrize("begin", range(5))
def test_rows_within_a_sample_are_joined_and_cut_sample_by_sample(begin: int) -> None:
    graph = joined_and_cut(begin)
    check_shapes(graph)
    x = np.arange(12, dtype=np.int8).reshape(3, 4)
    wanted = x[:, begin] if begin < 4 else np.full(3, 7)
    assert run(graph, [x])[0].reshape(-1).tolist() == wanted.tolist()


def test_kept_values_follow_the_outputs_in_the_order_asked_for() -> None:
    graph = graph_of("ADD", "int8", 1)
    x = rows_for(graph, 2, 1)
    output, second, first = run(graph, x, ["input1", "input0"])
    assert (first == x[0]).all()
    assert (second == x[1]).all()
    assert output.shape == x[0].shape


def float_graph(
    kind: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], constants=(), **options
) -> IntegerGraph:
    names = [f"input{index}" for index in range(len(shapes))]
    values = {name: Value(name, shape, "float32") for name, shape in zip(names, shapes, strict=True)}
    for index, array in enumerate(constants):
        values[f"constant{index}"] = Value(f"constant{index}", array.shape, str(array.dtype), None, array)
    values["output"] = Value("output", out, "float32")
    inputs = (*names, *(f"constant{index}" for index in range(len(constants))))
    operation = Operation(kind, inputs, ("output",), options, "layer")
    orders = tuple(tuple(range(len(shape))) for shape in shapes)
    return IntegerGraph(values, (operation,), tuple(names), ("output",), orders, (tuple(range(len(out))),))


def test_a_float_convolution_equals_torch() -> None:
    import torch

    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 9, 8, 4), (6, 3, 3, 2), (6,)))
    options = {"stride": (2, 1), "dilation": (1, 2), "padding": "VALID", "activation": "RELU"}
    graph = float_graph("CONV_2D", [(1, 9, 8, 4)], (1, 4, 4, 6), [w, b], **options)
    found = run(graph, [x])[0]
    tensors = (torch.from_numpy(each) for each in (x.transpose(0, 3, 1, 2), w.transpose(0, 3, 1, 2), b))
    wanted = torch.nn.functional.conv2d(*map(torch.Tensor.contiguous, tensors), (2, 1), 0, (1, 2), 2).relu()
    assert found.dtype == np.float32
    assert np.allclose(found, wanted.permute(0, 2, 3, 1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("RELU", lambda x: np.maximum(x, 0)),
        ("RELU6", lambda x: np.clip(x, 0, 6)),
        ("RELU_N1_TO_1", lambda x: np.clip(x, -1, 1)),
        ("LEAKY_RELU", lambda x: np.where(x > 0, x, 0.25 * x)),
        ("HARD_SWISH", lambda x: x * np.clip(x + 3, 0, 6) / 6),
        ("LOGISTIC", lambda x: 1 / (1 + np.exp(-x))),
        ("TANH", np.tanh),
        ("SOFTMAX", lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)),
    ],
)
def test_a_value_without_a_grid_is_computed_in_float32(kind: str, function) -> None:
    x = np.linspace(-9, 9, 24, dtype=np.float32).reshape(4, 6)
    options = {"LEAKY_RELU": {"alpha": 0.25}, "SOFTMAX": {"beta": 1.0}}.get(kind, {})
    found = run(float_graph(kind, [(1, 6)], (1, 6), **options), [x])[0]
    assert found.dtype == np.float32
    assert np.allclose(found, function(x), atol=1e-6)


def test_the_way_to_a_grid_and_back_is_that_of_the_grid() -> None:
    grid = Grid(8, True, (0.05,), (-3,))
    values = {
        "x": Value("x", (1, 50), "float32"),
        "q": Value("q", (1, 50), "int8", grid),
        "y": Value("y", (1, 50), "float32"),
    }
    operations = (Operation("QUANTIZE", ("x",), ("q",)), Operation("DEQUANTIZE", ("q",), ("y",)))
    graph = IntegerGraph(values, operations, ("x",), ("y",), ((0, 1),), ((0, 1),))
    x = np.random.default_rng(0).normal(0, 4, (3, 50)).astype(np.float32)
    found, integers = run(graph, [x], ["q"])
    assert integers.min() == -128
    assert np.abs(found - x)[np.abs(x) < 6].max() <= 0.0251
    assert found.dtype == np.float32


def test_weights_with_a_step_per_channel_become_real_numbers_again() -> None:
    weights = np.array([[1, 2], [3, 4]], np.int8)
    grid = Grid(8, True, (0.5, 0.25), (0, 0), 0)
    values = {
        "x": Value("x", (1, 2), "float32"),
        "w": Value("w", (2, 2), "int8", grid, weights),
        "real": Value("real", (2, 2), "float32"),
        "y": Value("y", (1, 2), "float32"),
    }
    operations = (Operation("DEQUANTIZE", ("w",), ("real",)), Operation("FULLY_CONNECTED", ("x", "real"), ("y",)))
    graph = IntegerGraph(values, operations, ("x",), ("y",), ((0, 1),), ((0, 1),))
    assert run(graph, [np.array([[1, 2], [0, 4]], np.float32)])[0].tolist() == [[2.5, 2.75], [4.0, 4.0]]


def test_an_unknown_kind_is_refused_by_name_with_its_layer() -> None:
    graph = graph_of("RELU", "int8", 0)
    graph = replace(graph, operations=(replace(graph.operations[0], kind="WHILE"),))
    with pytest.raises(MeasureError, match=r"layer: .*no WHILE"):
        run(graph, rows_for(graph, 1, 0))


@pytest.mark.parametrize(
    "spoil",
    [lambda x: [], lambda x: [x.astype(np.float32)], lambda x: [x[:, :1]], lambda x: [x[:0]], lambda x: [x, x]],
    ids=["none", "type", "shape", "no rows", "too many"],
)
def test_inputs_that_do_not_fit_are_refused(spoil) -> None:
    graph = graph_of("RELU", "int8", 0)
    with pytest.raises(MeasureError):
        run(graph, spoil(rows_for(graph, 2, 0)[0]))
