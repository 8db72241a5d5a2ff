"""Layers that only move numbers: from where they lie to where they should."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from haversack.integer import Value
from haversack.integer.parameters import Border, Joined, Nearest, Parts, Steps, Turned
from haversack.runtimes.c_source.constants import Entry
from haversack.runtimes.c_source.layers.call import Call, Layer
from haversack.runtimes.c_source.layers.places import Axis, filled, merged, steps

_MOST_AXES = 5


@dataclass(frozen=True)
class _Way:
    """The numbers of a box: how many along each axis, where they begin, and how far they lie apart."""

    counts: Sequence[int]
    begin: int
    apart: Sequence[int]

    @classmethod
    def whole(cls, value: Value, begin: int = 0) -> _Way:
        """All of a value."""
        return cls(value.shape, begin, steps(value.shape))


def border(layer: Layer, by: Border) -> Iterator[Call]:
    """A border of one number."""
    result, x = layer.result, layer.value("input")
    yield layer.call("fill", "Fill", {"count": math.prod(result.shape), "number": int(by.fill)})
    apart = steps(result.shape)
    begin = sum(before * step for (before, _), step in zip(by.sides, apart, strict=True))
    yield _moved(layer, x, _Way.whole(x), result, _Way(x.shape, begin, apart))


def joined(layer: Layer, by: Joined) -> Iterator[Call]:
    """Values one after the other."""
    result, begin = layer.result, 0
    apart = steps(result.shape)
    for name in layer.operation.inputs:
        x = layer.graph.values[name]
        yield _moved(layer, x, _Way.whole(x), result, _Way(x.shape, begin, apart))
        begin += x.shape[by.axis] * apart[by.axis]


def parts(layer: Layer, by: Parts) -> Iterator[Call]:
    """Equal parts of a value."""
    x, begin = layer.value("input"), 0
    apart = steps(x.shape)
    for name in layer.operation.outputs:
        part = layer.graph.values[name]
        yield _moved(layer, x, _Way(part.shape, begin, apart), part, _Way.whole(part))
        begin += part.shape[by.axis] * apart[by.axis]


def turned(layer: Layer, by: Turned) -> Iterator[Call]:
    """The axes in another order."""
    x, result = layer.value("input"), layer.result
    apart = steps(x.shape)
    source = _Way(result.shape, 0, [apart[axis] for axis in by.order])
    yield _moved(layer, x, source, result, _Way.whole(result))


def sliced(layer: Layer, by: Steps) -> Iterator[Call]:
    """Some places of each axis."""
    x = layer.value("input")
    apart = steps(x.shape)
    begin = sum(first * step for first, step in zip(by.begins, apart, strict=True))
    source = _Way(by.counts, begin, [stride * step for stride, step in zip(by.strides, apart, strict=True)])
    yield _moved(layer, x, source, layer.result, _Way(by.counts, 0, steps(by.counts)))


def nearest(layer: Layer, by: Nearest) -> Iterator[Call]:
    """Rows and columns that are copies of what is read."""
    x = layer.value("input")
    rows, columns = (
        layer.constants.numbers(f"{layer.name}_{name}", array.astype(np.uint16))
        for name, array in (("rows", by.rows), ("columns", by.columns))
    )
    entries: dict[str, Entry] = {"rows": rows, "columns": columns, "height": len(by.rows), "width": len(by.columns)}
    yield layer.call(
        "resize", "Resize", {**entries, "in_width": x.shape[2], "run": x.shape[3] * np.dtype(x.dtype).itemsize}, x
    )


def _moved(layer: Layer, x: Value, source: _Way, y: Value, target: _Way) -> Call:
    """Numbers from where they lie to where they should; what lies side by side on both sides moves at once."""
    size = np.dtype(x.dtype).itemsize
    axes = merged(Axis(*each) for each in zip(source.counts, source.apart, target.apart, strict=True))
    run = axes.pop().count if axes and (axes[-1].one, axes[-1].other) == (1, 1) else 1
    if len(axes) > _MOST_AXES:
        raise layer.refuse(f"along more than {_MOST_AXES} axes")
    entries: dict[str, Entry] = {
        "counts": filled([axis.count for axis in axes], _MOST_AXES, 1),
        "from": filled([axis.one * size for axis in axes], _MOST_AXES, 0),
        "to": filled([axis.other * size for axis in axes], _MOST_AXES, 0),
        "from_start": source.begin * size,
        "to_start": target.begin * size,
        "run": run * size,
    }
    return Call("move", "Move", entries, (x.name,), y.name)
