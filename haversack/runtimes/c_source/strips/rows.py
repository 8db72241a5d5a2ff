"""Rows: which rows of what it reads an operation needs for each row that it makes, and the operation on some rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from haversack.integer import Array, IntegerGraph, Operation, Value
from haversack.integer.lowering import parameters
from haversack.integer.parameters import (
    Border,
    Interpolation,
    Joined,
    Lookup,
    Parameters,
    Pieces,
    Pooled,
    Product,
    Same,
    Softmax8,
    Softmax16,
    Sum,
    WindowedProducts,
)
from haversack.runtimes.c_source.layers import calls
from haversack.runtimes.c_source.layers.call import Call, Layer

Rows = TypeVar("Rows", int, Array)
_WINDOWED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "AVERAGE_POOL_2D", "MAX_POOL_2D"})


@dataclass(frozen=True)
class RowWindow:
    """Row n of a result is made of `reach` rows of a value from n * stride - top on, as far as there are such.

    Rows lie along the `axis` of the height, or of the width where maps have one row.
    """

    reach: int = 1
    stride: int = 1
    top: int = 0
    axis: int = 1

    def begin(self, row: Rows) -> Rows:
        """The first row that is read for a row; it may lie above the value."""
        return row * self.stride - self.top

    def end(self, rows: Rows) -> Rows:
        """Behind the last row that is read for so many rows; it may lie below the value."""
        return self.begin(rows - 1) + self.reach


@dataclass(frozen=True)
class RowStrip:
    """So many rows of a result, of so many rows of what is read; `above` rows more would lie above that."""

    count: int
    there: int
    above: int

    @classmethod
    def between(cls, made: int, end: int, window: RowWindow, height: int) -> RowStrip:
        """The rows from `made` to `end`, where what is read has that height."""
        begin = window.begin(made)
        there = min(window.end(end), height) - max(begin, 0)
        return cls(end - made, max(there, 0), min(max(-begin, 0), end - made) if window.reach == 1 else max(-begin, 0))


def row_windows(graph: IntegerGraph, operation: Operation) -> Mapping[str, RowWindow] | None:
    """How an operation's rows are made of those of the values that it names; None where they are not.

    Values that are not named are read whole for each row: constants, and what is stretched along the rows.
    """
    values, result = [graph.values[name] for name in operation.inputs if name], graph.values[operation.outputs[0]]
    axis = _common_axis([result, *filter(_is_map, values)])
    if len(operation.outputs) != 1 or not _is_map(result) or axis is None:
        return None
    windows, alone = dict[str, RowWindow](), RowWindow(axis=axis)
    match by := parameters(graph, operation):
        case WindowedProducts() | Pooled() if operation.kind in _WINDOWED:
            along = axis - 1
            windows[operation.input("input")] = RowWindow(
                by.window.reach[along], by.window.stride[along], by.sides[along][0], axis
            )
        case Border() if not any(by.sides[0]):
            windows[operation.input("input")] = RowWindow(top=by.sides[axis][0], axis=axis)
        case Joined() if by.axis > axis:
            windows |= dict.fromkeys(operation.inputs, alone)
        case Sum() | Product() | Lookup() | Interpolation() | Pieces() | Softmax8() | Softmax16():
            windows |= dict.fromkeys(_in_turn(values, result, axis), alone)
        case Same() if operation.kind in ("MAXIMUM", "MINIMUM"):
            windows |= dict.fromkeys(_in_turn(values, result, axis), alone)
    return windows if windows and all(_is_map(graph.values[name]) for name in windows) else None


def row_count(value: Value) -> int:
    """How many rows a map has."""
    return value.shape[_axis(value)]


def row_bytes(value: Value) -> int:
    """The bytes of one row of a map."""
    return math.prod(value.shape[_axis(value) + 1 :]) * np.dtype(value.dtype).itemsize


def _axis(value: Value) -> int:
    """The axis along which a map has rows."""
    return 2 if value.shape[1] == 1 else 1


def _common_axis(values: Sequence[Value]) -> int | None:
    """The axis of the rows of all these, None where they differ; a single pixel has one row along either."""
    axes = {_axis(value) for value in values if len(value.shape) == 4 and value.shape[1:3] != (1, 1)}
    return next(iter(axes), 1) if len(axes) < 2 else None


def _is_map(value: Value) -> bool:
    """Whether it is a computed map of rows."""
    return value.data is None and value.dtype in ("int8", "int16") and len(value.shape) == 4 and value.shape[0] == 1


def _in_turn(values: Sequence[Value], result: Value, axis: int) -> Sequence[str]:
    """The maps of whose rows those of the result are made in turn; none where other values are not stretched."""
    counts = {value.name: value.shape[axis - 4] if len(value.shape) >= 4 - axis else 1 for value in values}
    named = [value.name for value in values if _is_map(value) and value.shape[axis] == result.shape[axis]]
    return named if all(count == 1 for name, count in counts.items() if name not in named) else []


def calls_on_rows(layer: Layer, windows: Mapping[str, RowWindow], strip: RowStrip) -> tuple[Call, ...]:
    """The kernels that compute some rows of a layer."""
    values, window = dict(layer.graph.values), next(iter(windows.values()))
    for name, rows in (*((name, strip.there) for name in windows), (layer.result.name, strip.count)):
        shape = list(values[name].shape)
        shape[window.axis] = rows
        values[name] = replace(values[name], shape=tuple(shape))
    by = _cut(parameters(layer.graph, layer.operation), window, strip)
    return calls(replace(layer, graph=replace(layer.graph, values=values)), by)


def _cut(by: Parameters, window: RowWindow, strip: RowStrip) -> Parameters:
    """The parameters with as many rows beside the map as the strip has."""
    span = (strip.count - 1) * window.stride + window.reach
    beside = strip.above, max(span - strip.above - strip.there, 0)
    match by:
        case WindowedProducts() | Pooled():
            return replace(by, sides=(beside, by.sides[1]) if window.axis == 1 else (by.sides[0], beside))
        case Border():
            return replace(by, sides=(*by.sides[: window.axis], beside, *by.sides[window.axis + 1 :]))
    return by
