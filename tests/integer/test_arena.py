"""The arena of an integer graph is held against its own definition, on random graphs and on whole networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from single_operations import RECIPES, graph_of

from haversack import zoo
from haversack.graph.inference import lower
from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value
from haversack.integer.memory import Arena, arena, lifetimes, sharing, size_bytes
from haversack.integer.read import read
from haversack.model import Model
from haversack.runtimes.tflite.read import read as read_file

DATA = Path(__file__).parents[3] / "shared/data/mlperf-tiny"
GRID = Grid(8, True, (1.0,), (0,))
ALIGNMENTS = st.sampled_from([1, 4, 16, 64])


@st.composite
def graphs(draw) -> IntegerGraph:
    """Operations that read what is there, now and then a reshape; inputs, outputs and sizes as they come."""
    values = {"constant": Value("constant", (1, 9), "int8", GRID, np.zeros((1, 9), np.int8))}
    inputs = tuple(f"x{index}" for index in range(draw(st.integers(1, 3))))
    for name in inputs:
        values[name] = Value(name, (1, draw(st.integers(1, 300))), draw(st.sampled_from(["int8", "float32"])))
    operations = []
    for index in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["ADD", "ADD", "RESHAPE", "TRANSPOSE_CONV"]))
        read = tuple(draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)))
        shape = values[read[0]].shape if kind == "RESHAPE" else (1, draw(st.integers(1, 300)))
        made = tuple(f"v{index}.{count}" for count in range(1 if kind == "RESHAPE" else draw(st.integers(1, 2))))
        values.update({name: Value(name, shape, values[read[0]].dtype, GRID) for name in made})
        operations.append(Operation(kind, read, made))
    computed = [name for operation in operations for name in operation.outputs]
    outputs = tuple(draw(st.lists(st.sampled_from(computed), min_size=1, max_size=3, unique=True)))
    orders = (((0, 1),) * len(inputs), ((0, 1),) * len(outputs))
    return IntegerGraph(values, tuple(operations), inputs, outputs, *orders)


def spans(graph: IntegerGraph, found: Arena, scratch=None) -> list[tuple[range, range]]:
    """(the steps at which it is alive, its bytes) of every owner of bytes and every scratch memory."""
    owned = [
        (range(each.first, each.last + 1), range(start := found.offsets[each.name], start + each.size_bytes))
        for each in lifetimes(graph)
    ]
    beside = [
        (range(index, index + 1), range(start, start + scratch(graph, graph.operations[index])))
        for index, start in found.scratch.items()
    ]
    return owned + beside


def scratch(graph: IntegerGraph, operation: Operation) -> int:
    return 3 * len(operation.path or operation.kind) if operation.kind != "ADD" else 0


def meet(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


@given(graphs(), ALIGNMENTS)
@settings(max_examples=60)
def test_nothing_that_is_alive_together_overlaps_and_every_offset_is_aligned(graph, alignment):
    found = arena(graph, alignment=alignment, scratch=scratch)
    taken = spans(graph, found, scratch)
    assert all(used.start % alignment == 0 and used.stop <= found.size_bytes for _, used in taken)
    for index, (alive, used) in enumerate(taken):
        assert not any(meet(alive, steps) and meet(used, bytes_) for steps, bytes_ in taken[:index])


@given(graphs(), ALIGNMENTS)
@settings(max_examples=60)
def test_an_arena_is_never_below_the_most_bytes_alive_at_one_step(graph, alignment):
    found = arena(graph, alignment=alignment, scratch=scratch)
    taken = spans(graph, found, scratch)
    alive = [
        sum(-(-len(used) // alignment) * alignment for steps, used in taken if step in steps)
        for step in range(len(graph.operations) + 1)
    ]
    assert found.size_bytes >= found.bound_bytes == max(alive)


@given(graphs())
@settings(max_examples=60)
def test_every_value_that_is_read_is_alive_from_its_making_on(graph):
    owners, spans_of = sharing(graph), {each.name: (each.first, each.last) for each in lifetimes(graph)}
    made = dict.fromkeys(graph.inputs, 0)
    for step, operation in enumerate(graph.operations):
        made.update(dict.fromkeys(operation.outputs, step))
        for name in {*operation.inputs, *operation.outputs} & owners.keys():
            first, last = spans_of[owners[name]]
            assert first <= made[name] <= step <= last
    assert all(spans_of[owners[name]][1] == len(graph.operations) for name in graph.outputs)
    assert all(spans_of[name][0] == 0 for name in graph.inputs)


@given(graphs())
@settings(max_examples=30)
def test_a_reshape_takes_no_memory_and_a_constant_neither(graph):
    found = arena(graph)
    assert "constant" not in found.offsets
    for operation in graph.operations:
        if operation.kind == "RESHAPE" and operation.inputs[0] in found.offsets:
            assert found.offsets[operation.outputs[0]] == found.offsets[operation.inputs[0]]


@given(graphs())
@settings(max_examples=10)
def test_the_same_graph_gets_the_same_arena(graph):
    assert arena(graph) == arena(graph)


@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_one_operation_needs_its_values_and_nothing_more(kind):
    for dtype in ("int8", "int16"):
        graph = graph_of(kind, dtype, 1)
        found = arena(graph, alignment=1)
        names = graph.inputs if kind == "RESHAPE" else (*graph.inputs, *graph.outputs)
        alive = sum(size_bytes(graph.values[name]) for name in names)
        sums = size_bytes(graph.values[graph.outputs[0]]) * 4 if kind == "TRANSPOSE_CONV" else 0
        assert found.size_bytes == found.bound_bytes == alive + sums


@pytest.mark.parametrize("name", ["ds_cnn_1d", "mobilenet_v2", "squeezenet"])
def test_a_network_s_arena_is_the_smallest_that_there_can_be_to_one_in_a_hundred(name):
    family = zoo.family(name)
    x = torch.zeros(1, 3, 32, 32) if family.dimensions == 2 else torch.zeros(1, 3, 128)
    network = family(channels=3, outputs=10, width=0.25, depth=0.2, downsampling=4).eval()
    found = arena(read(lower(Model(network, (x,)))))
    assert found.bound_bytes <= found.size_bytes <= 1.01 * found.bound_bytes


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data/mlperf-tiny")
@pytest.mark.parametrize(
    ("name", "board"),
    [("ic_resnet8", 49_152), ("kws_ref_model", 16_000), ("vww_96", 55_296), ("ad01", 768)],
)
def test_mlperf_tiny_s_files_need_the_memory_that_their_networks_have_on_the_board(name, board):
    found = arena(read_file((DATA / f"{name}_int8.tflite").read_bytes()))
    assert found.size_bytes == found.bound_bytes == board
