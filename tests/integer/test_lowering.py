"""What operations compute with: plain numbers, enough for code that knows neither grids nor options."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pytest
from single_operations import RECIPES, Draft, graph_of, rows_for

from haversack.errors import ExportError
from haversack.grid import Grid
from haversack.integer import KINDS
from haversack.integer.lowering import parameters
from haversack.integer.passes import with_float_ports
from haversack.integer.reference import run


def numbers_in(value):
    """The numbers that parameters hold; a type that is neither a number nor made of some fails."""
    if dataclasses.is_dataclass(value):
        assert type(value).__dataclass_params__.frozen
        value = tuple(getattr(value, field.name) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return [number for each in value for number in numbers_in(each)]
    assert value is None or type(value) in (int, float, bool, str, np.ndarray)
    return [] if value is None or isinstance(value, str) else np.asarray(value).reshape(-1).tolist()


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", sorted(RECIPES))
def test_every_operation_gives_plain_numbers_that_fit_32_bits(kind, dtype):
    if dtype not in KINDS[kind].dtypes:
        pytest.skip("no such kernel")
    for seed in range(5):
        graph = with_float_ports(graph_of(kind, dtype, seed))
        for operation in graph.operations:
            found = numbers_in(parameters(graph, operation))
            assert all(isinstance(number, float) or -(2**31) <= number < 2**31 for number in found)


def rounded(total: int, mantissa: int, shift: int) -> int:
    """A product as C computes it: 64 bits, the upper half, then a rounding shift."""
    product = (total << max(shift, 0)) * mantissa
    high = (product + (1 << 30)) >> 31
    right = max(-shift, 0)
    return (high + ((1 << right) >> 1) - (1 if high < 0 and right else 0)) >> right


def connected(x, weights, bias, by) -> list[int]:
    """A fully connected layer in plain loops over whole numbers."""
    results = []
    for channel, row in enumerate(weights):
        total = sum((int(a) - by.input_zero) * int(b) for a, b in zip(x, row, strict=True)) + int(bias[channel])
        mantissa, shift = (int(np.broadcast_to(each, len(weights))[channel]) for each in (by.by.mantissa, by.by.shift))
        result = rounded(total, mantissa, shift) + by.output.zero_point
        results.append(max(by.output.low, min(by.output.high, result)))
    return results


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_in_plain_loops_over_its_parameters_equals_the_reference(seed):
    graph = graph_of("FULLY_CONNECTED", "int8", seed)
    operation = graph.operations[0]
    weights = graph.values[operation.input("weight")].data
    bias = graph.values[operation.input("bias")].data if operation.input("bias") else np.zeros(len(weights), int)
    x = rows_for(graph, 2, seed)[0].reshape(-1, weights.shape[1])
    by = parameters(graph, operation)
    found = [connected(row, weights, bias, by) for row in x]
    wanted = run(graph, [x.reshape(-1, *graph.values[graph.inputs[0]].shape[1:])])[0]
    assert found == wanted.reshape(len(x), -1).tolist()


def convolved(x, weights, by, shape) -> np.ndarray:
    """A convolution in plain loops; what lies at its sides counts as nothing."""
    window, ((top, _), (left, _)) = by.window, by.sides
    result = np.zeros(shape, np.int64)
    for row, column, channel in np.ndindex(*shape):
        total = 0
        for tap in itertools.product(*map(range, window.kernel)):
            at = [
                place * stride + step * rate - before
                for place, stride, step, rate, before in zip(
                    (row, column), window.stride, tap, window.dilation, (top, left), strict=True
                )
            ]
            if 0 <= at[0] < x.shape[0] and 0 <= at[1] < x.shape[1]:
                total += int(
                    (x[at[0], at[1]].astype(int) - by.input_zero) @ weights[channel, tap[0], tap[1]].astype(int)
                )
        mantissa, shift = (int(np.broadcast_to(each, shape[2])[channel]) for each in (by.by.mantissa, by.by.shift))
        result[row, column, channel] = rounded(total, mantissa, shift) + by.output.zero_point
    return np.clip(result, int(by.output.low), int(by.output.high))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 1), (2, 1))])
def test_a_convolution_in_plain_loops_over_its_parameters_equals_the_reference(padding, stride, dilation):
    draft = Draft(1, "int8")
    x = draft.input((1, 7, 6, 2))
    w = draft.weights((3, 3, 2, 2), 0)
    reach = [2 * dilation[0] + 1, dilation[1] + 1]
    out = [
        -(-size // step) if padding == "SAME" else (size - wide) // step + 1
        for size, step, wide in zip((7, 6), stride, reach, strict=True)
    ]
    options = {"stride": stride, "dilation": dilation, "padding": padding, "activation": "RELU6"}
    graph = draft.finish("CONV_2D", [x, w], (1, *out, 3), Grid(8, True, (0.05,), (-20,)), **options)
    rows = rows_for(graph, 1, 1)[0]
    by = parameters(graph, graph.operations[0])
    assert (convolved(rows[0], graph.values[w].data, by, (*out, 3)) == run(graph, [rows])[0][0]).all()


@pytest.mark.parametrize("kind", ["LOGISTIC", "TANH", "HARD_SWISH"])
def test_curves_of_8_bits_are_one_look_into_a_table(kind):
    graph = graph_of(kind, "int8", 2)
    x = rows_for(graph, 3, 2)[0]
    table = parameters(graph, graph.operations[0]).table
    assert table.shape == (256,)
    assert (table[x.astype(int) + 128] == run(graph, [x])[0]).all()


def test_an_operation_without_a_row_has_no_parameters():
    graph = graph_of("RELU", "int8", 0)
    with pytest.raises(ExportError, match="layer: the integer graph has no WHILE"):
        parameters(graph, replace(graph.operations[0], kind="WHILE"))
