"""Layers that compute numbers of numbers: sums, products, functions, means."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from haversack.integer import Value
from haversack.integer.parameters import (
    Interpolation,
    Lookup,
    Mean,
    Pieces,
    Product,
    Reduction,
    Same,
    Softmax8,
    Softmax16,
    Sum,
)
from haversack.integer.reference import TABLE
from haversack.integer.reference.call import KernelCall
from haversack.runtimes.c_source.constants import Entry
from haversack.runtimes.c_source.layers.call import Call, Layer, ending, factor, limits, span
from haversack.runtimes.c_source.layers.places import Axis, filled, merged, steps
from haversack.runtimes.c_source.layers.weights import summed


def added(layer: Layer, by: Sum) -> Iterator[Call]:
    """A sum or a difference."""
    if by.sides is None or by.by is None:
        raise layer.refuse("on real numbers")
    entries = {
        **_stretched(layer),
        **factor(by.sides[0], "left_"),
        **factor(by.sides[1], "right_"),
        **factor(by.by),
        "left_zero": by.zeros[0],
        "right_zero": by.zeros[1],
        "room": by.room,
        **ending(by.output),
        "sign": by.sign,
    }
    finer = span(layer.result) << by.room
    sides = summed(finer, by.sides[0]) | summed(finer, by.sides[1])
    flags = (sides - {"NO_SHIFTS"}) | summed(finer << 1, by.by)
    yield layer.call("add", "Sum", entries, *_both(layer), flags=flags, overwrites=layer.in_turn())


def multiplied(layer: Layer, by: Product) -> Iterator[Call]:
    """A product of two values."""
    if by.by is None:
        raise layer.refuse("on real numbers")
    zeros = {"left_zero": by.zeros[0], "right_zero": by.zeros[1]}
    entries = {**_stretched(layer), **factor(by.by), **zeros, **ending(by.output)}
    flags = summed(span(layer.result) ** 2, by.by)
    yield layer.call("multiply", "Product", entries, *_both(layer), flags=flags, overwrites=layer.in_turn())


def chosen(layer: Layer, _: Same) -> Iterator[Call]:
    """What needs no numbers beside its values: the larger or the smaller one, or rows of a table."""
    kind = layer.operation.kind
    if kind in ("MAXIMUM", "MINIMUM"):
        entries = {**_stretched(layer), "larger": int(kind == "MAXIMUM")}
        yield layer.call("choose", "Choice", entries, *_both(layer), overwrites=layer.in_turn())
        return
    if kind != "GATHER" or layer.result.dtype != "int8":
        raise layer.refuse("on such numbers")
    table, places = layer.value("input"), layer.value("indices")
    if table.data is None:
        raise layer.refuse("of what is computed")
    numbers = layer.constants.numbers(f"{layer.name}_table", np.asarray(table.data, np.int8))
    sizes = {"count": math.prod(places.shape), "rows": table.shape[0], "run": math.prod(table.shape[1:])}
    yield layer.call("gather", "Gather", {"table": numbers, **sizes}, places)


def looked_up(layer: Layer, by: Lookup | Pieces) -> Iterator[Call]:
    """A function of one number: what it makes of each."""
    x, result, count = layer.value("input"), layer.result, math.prod(layer.result.shape)
    if isinstance(by, Pieces) and by.above is None:
        entries: dict[str, Entry] = {"count": count, **limits(by.output)}
        yield layer.call("limit", "Limits", entries, x, overwrites=layer.in_turn())
        return
    if isinstance(by, Pieces) and x.dtype == "int16":
        yield _in_pieces(layer, by)
        return
    every = np.arange(-128, 128).astype(np.int8)
    made = TABLE[layer.operation.kind](KernelCall(layer.operation, (result,), (every,)), by)
    table = layer.constants.numbers(f"{layer.name}_table", np.asarray(made, result.dtype))
    kernel, record = ("look_up", "Table") if result.dtype == "int8" else ("look_up_16", "WideTable")
    yield layer.call(kernel, record, {"table": table, "count": count}, x, overwrites=layer.in_turn())


def _in_pieces(layer: Layer, by: Pieces) -> Call:
    """Numbers of 16 bits times one factor, and another below zero."""
    if by.above is None or by.below is None:
        raise layer.refuse("on real numbers")
    entries = {
        "count": math.prod(layer.result.shape),
        **factor(by.above),
        **factor(by.below, "below_"),
        **ending(by.output),
        "is_narrow": int(layer.result.dtype == "int8"),
    }
    x = layer.value("input")
    flags = (summed(span(x), by.above) | summed(span(x), by.below)) - {"NO_SHIFTS"}
    return layer.call("pieces_16", "Pieces", entries, x, flags=flags, overwrites=layer.in_turn())


def interpolated(layer: Layer, by: Interpolation) -> Iterator[Call]:
    """The logistic function or tanh of numbers of 16 bits."""
    table = layer.constants.numbers(f"{layer.name}_table", by.table.astype(np.uint16))
    entries: dict[str, Entry] = {"table": table, "factor": by.factor, "shift": by.shift}
    entries |= {"count": math.prod(layer.result.shape), "is_tanh": int(layer.operation.kind == "TANH")}
    yield layer.call("curve_16", "Curve", entries, layer.value("input"), overwrites=layer.in_turn())


def softmax_of_16_bits(layer: Layer, by: Softmax16) -> Iterator[Call]:
    """Softmax of rows of numbers of 16 bits."""
    shape = layer.result.shape
    tables = {"powers": by.exp, "inverses": by.inverse}
    entries: dict[str, Entry] = {
        name: layer.constants.numbers(f"{layer.name}_{name}", table.astype(np.int16)) for name, table in tables.items()
    }
    entries |= {**factor(by.by), "rows": math.prod(shape[:-1]), "length": shape[-1]}
    flags = summed((1 << 16) - 1, by.by) - {"NO_SHIFTS"}
    yield layer.call(
        "softmax_16", "WideSoftmax", entries, layer.value("input"), flags=flags, overwrites=layer.in_turn()
    )


def softmax(layer: Layer, by: Softmax8) -> Iterator[Call]:
    """Softmax of rows."""
    shape = layer.result.shape
    if shape[-1] > _LONGEST_ROW:
        raise layer.refuse(f"of rows of {shape[-1]} numbers; {_LONGEST_ROW} are the most")
    powers = by.exp[::-1]
    powers = powers[: int(np.flatnonzero(powers)[-1]) + 1].astype(np.int32)
    table = layer.constants.numbers(f"{layer.name}_powers", powers)
    entries: dict[str, Entry] = {"powers": table, "count": len(powers)}
    entries |= {"rows": math.prod(shape[:-1]), "length": shape[-1]}
    yield layer.call("softmax", "Softmax", entries, layer.value("input"), overwrites=layer.in_turn())


_LONGEST_ROW = 2048
"""Sums of so many powers stay within 31 bits."""


def reduced(layer: Layer, by: Reduction) -> Iterator[Call]:
    """The mean or the largest number along some axes."""
    x, flags = layer.value("input"), frozenset[str]()
    kept, gone = _axes_apart(x.shape, by.axes)
    entries: dict[str, Entry] = {
        "counts": filled([count for count, _ in kept], 3, 1),
        "steps": filled([step for _, step in kept], 3, 0),
        "inner": filled([count for count, _ in gone], 3, 1),
        "strides": filled([step for _, step in gone], 3, 0),
    }
    if isinstance(by, Mean):
        if by.by is None:
            raise layer.refuse("of real numbers")
        entries |= {**factor(by.by), "in_zero": by.input_zero, **ending(by.output), "mean": 1}
        largest = span(x) * math.prod(x.shape[axis] for axis in by.axes)
        if largest >= 1 << 31:
            raise layer.refuse("of so many numbers that their sum has more than 32 bits")
        flags = summed(largest, by.by)
    yield layer.call("reduce", "Reduction", entries, x, flags=flags)


def _axes_apart(shape: Sequence[int], axes: Sequence[int]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Count and step of the axes that stay and of those that go, neighbours of a kind being one."""
    kept, gone = list[tuple[int, int]](), list[tuple[int, int]]()
    before: bool | None = None
    for axis, size in enumerate(shape):
        step = math.prod(shape[axis + 1 :])
        if size == 1:
            continue
        into, goes = (gone, True) if axis in axes else (kept, False)
        if goes == before:
            into[-1] = (into[-1][0] * size, step)
        else:
            into.append((size, step))
        before = goes
    return kept, gone


def _both(layer: Layer) -> tuple[Value, Value]:
    return layer.value("left"), layer.value("right")


def _stretched(layer: Layer) -> dict[str, Entry]:
    """Counts along the result's axes, and the steps of both sides, which are 0 where one number serves all."""
    shape = layer.result.shape
    sides = [_broadcast(layer.value(side).shape, shape) for side in ("left", "right")]
    axes = merged(Axis(count, *apart) for count, *apart in zip(shape, *sides, strict=True))
    if len(axes) > _BROADCAST_AXES:
        raise layer.refuse(f"that stretches along more than {_BROADCAST_AXES} axes")
    return {
        "counts": filled([axis.count for axis in axes], _BROADCAST_AXES, 1),
        "left_steps": filled([axis.one for axis in axes], _BROADCAST_AXES, 0),
        "right_steps": filled([axis.other for axis in axes], _BROADCAST_AXES, 0),
    }


_BROADCAST_AXES = 4


def _broadcast(shape: Sequence[int], result: Sequence[int]) -> list[int]:
    apart = [0 if size == 1 else step for size, step in zip(shape, steps(shape), strict=True)]
    return list(filled(apart, len(result), 0))
