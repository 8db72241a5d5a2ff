"""Indexing: numbers read from places, or written to places, that the network or its code names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from haversack.runtimes.onnx.call import Call, Dim, Table, shape_of
from haversack.runtimes.onnx.operators.arithmetic import chosen, operand
from haversack.runtimes.onnx.operators.shapes import END, part, reshaped, spread

Places = dict[int, fx.Node]
"""The tensor that names places along a dimension, by dimension."""


def index(call: Call) -> str:
    """Elements at the places that tensors name, whose dimensions come where the first of them was."""
    places = _places(call)
    if len(places) == 1:
        ((axis, place),) = places.items()
        return call.graph.node("Gather", call.x, _whole(call, place), axis=axis)
    x, shape, first = _side_by_side(call, list(places))
    before, sizes, behind = shape[:first], shape[first : first + len(places)], shape[first + len(places) :]
    rows = _flat_place(call, list(places.values()), sizes)
    flat = reshaped(call, x, shape, [*before, math.prod(sizes), *behind])
    return call.graph.node("Gather", flat, rows, axis=first)


def _places(call: Call) -> Places:
    """By dimension; a mask that is constant is as good as the places where it holds."""
    places = {dim: place for dim, place in enumerate(call["indices"]) if place is not None}
    if any(place.meta["val"].dtype in {torch.bool, torch.uint8} for place in places.values()):
        raise call.unsupported("with a mask, which leaves a number of elements that depends on the data")
    return places


def _side_by_side(call: Call, dims: list[int]) -> tuple[str, tuple[Dim, ...], int]:
    """The first argument with the dimensions `dims` in a row, its shape then, and where that row begins.

    torch puts them first where they are not in a row.
    """
    if dims == list(range(dims[0], dims[0] + len(dims))):
        return call.x, call.shape, dims[0]
    order = [*dims, *(dim for dim in range(len(call.shape)) if dim not in dims)]
    return call.graph.node("Transpose", call.x, perm=order), tuple(call.shape[dim] for dim in order), 0


def _known(call: Call, size: Dim) -> int:
    if not isinstance(size, int):
        raise call.unsupported("along a dimension whose size is free")
    return size


def _flat_place(call: Call, places: Sequence[fx.Node], sizes: Sequence[Dim]) -> str:
    """Where the elements are, counted through all dimensions of these sizes."""
    graph, total = call.graph, ""
    for dim, (place, size) in enumerate(zip(places, sizes, strict=True)):
        # Places before the first are counted from the end.
        row = graph.node("Mod", _whole(call, place), call.value(size, torch.int64))
        step = math.prod(_known(call, each) for each in sizes[dim + 1 :])
        row = row if step == 1 else graph.node("Mul", row, graph.number(step, torch.int64))
        total = graph.node("Add", total, row) if total else row
    return total


def _whole(call: Call, place: fx.Node) -> str:
    return call.graph.cast(call.value(place), torch.int64)


def index_put(call: Call) -> str:
    """The first argument with other elements at the places that tensors name, or where a mask holds."""
    graph, given, values = call.graph, call["indices"], operand(call, call["values"])
    if len(given) == 1 and given[0].meta["val"].dtype == torch.bool:
        return _put_by_mask(call, given[0], values)
    if any(place is None for place in given):
        raise call.unsupported("into all places of a dimension that comes before others")
    sizes, rest = call.shape[: len(given)], call.shape[len(given) :]
    named = _broadcast([shape_of(place) for place in given])
    rows = graph.node("Expand", _flat_place(call, given, sizes), call.shape_value(named))
    rows = graph.node("Reshape", rows, graph.integers([-1, 1]))
    updates = graph.node("Expand", values, call.shape_value([*named, *rest]))
    x, updates = (graph.node("Reshape", each, call.shape_value([-1, *rest])) for each in (call.x, updates))
    put = graph.node("ScatterND", x, rows, updates, reduction="add" if call["accumulate"] else None)
    return graph.node("Reshape", put, call.shape_value(call.shape))


def _broadcast(shapes: Sequence[Sequence[Dim]]) -> list[Dim]:
    """The shape that holds all of these."""
    rank = max(map(len, shapes))
    aligned: list[list[Dim]] = [[*[1] * (rank - len(shape)), *shape] for shape in shapes]
    return [next((size for size in sizes if str(size) != "1"), 1) for sizes in zip(*aligned, strict=True)]


def _put_by_mask(call: Call, mask: fx.Node, values: str) -> str:
    if call["accumulate"] or any(str(size) != "1" for size in shape_of(call["values"])):
        raise call.unsupported("with a mask and more than one number")
    rest = len(call.shape) - len(shape_of(mask))
    holds = call.value(mask)
    if rest:
        holds = call.graph.node("Unsqueeze", holds, call.graph.integers(range(-rest, 0)))
    return chosen(call, holds, call.graph.node("Reshape", values, call.graph.integers([1])), call.x)


def gather(call: Call) -> str:
    """Along one dimension, the element that each place names."""
    return call.graph.node("GatherElements", call.x, _whole(call, call["index"]), axis=call.dim())


def scatter(reduction: str | None = None) -> Callable[[Call], str]:
    """A function that writes elements to places along one dimension, or adds them there."""

    def written(call: Call) -> str:
        if call.arguments.get("reduce") is not None:
            raise call.unsupported("with a reduction")
        graph, source = call.graph, call.arguments.get("src", call.arguments.get("value"))
        places, values = _whole(call, call["index"]), operand(call, source)
        if not isinstance(source, fx.Node) or not shape_of(source):
            values = graph.node("Expand", values, call.shape_value(shape_of(call["index"])))
        return graph.node("ScatterElements", call.x, places, values, axis=call.dim(), reduction=reduction)

    return written


def slice_scatter(call: Call) -> str:
    """The first argument with another tensor in a slice's place."""
    axis, size = call.dim(), call.shape[call.dim()]
    start, end = call["start"] or 0, END if call["end"] is None else call["end"]
    if call["step"] != 1 or not all(isinstance(each, int) for each in (start, end)):
        raise call.unsupported("with steps, or bounds that are free")
    length = shape_of(call["src"])[axis]
    if str(length) == str(size):
        return spread(call, operand(call, call["src"]), shape_of(call["src"]), call.shape)
    start = start if start >= 0 else _known(call, size) + start
    return _between(call, axis, start, start + _known(call, length), operand(call, call["src"]))


def select_scatter(call: Call) -> str:
    """The first argument with another tensor in one place along a dimension."""
    axis = call.dim()
    place = call["index"] if call["index"] >= 0 else call.size(axis) + call["index"]
    source = call.graph.node("Unsqueeze", operand(call, call["src"]), call.graph.integers([axis]))
    return _between(call, axis, place, place + 1, source)


def _between(call: Call, axis: int, start: int, end: int, source: str) -> str:
    """`source` between what stands before `start` and from `end` on."""
    parts = [part(call, call.x, axis, 0, start)] if start else []
    parts.append(source)
    if not isinstance(call.shape[axis], int) or end < call.size(axis):
        parts.append(part(call, call.x, axis, end, END))
    return call.graph.node("Concat", *parts, axis=axis) if len(parts) > 1 else source


def copy(call: Call) -> str:
    """Another tensor in the first argument's shape and type."""
    return spread(call, operand(call, call["src"]), shape_of(call["src"]), call.shape)


def roll(call: Call) -> str:
    """Everything moved along dimensions; what leaves at one end comes in at the other."""
    dims, x = call["dims"], call.x
    if not dims:
        raise call.unsupported("over all dimensions at once")
    for shift, dim in zip(call.spatial("shifts", len(dims)), dims, strict=True):
        axis = dim % len(call.shape)
        behind = shift % call.size(axis)
        if behind:
            parts = part(call, x, axis, -behind, END), part(call, x, axis, 0, -behind)
            x = call.graph.node("Concat", *parts, axis=axis)
    return x


def flip(call: Call) -> str:
    """Dimensions turned around."""
    integers, dims = call.graph.integers, call.dims("dims")
    count = len(dims)
    return call.graph.node(
        "Slice", call.x, integers([-1] * count), integers([-END] * count), integers(dims), integers([-1] * count)
    )


def triangle(*, upper: bool) -> Callable[[Call], str]:
    """A function that writes what is above or below a diagonal, and zeros."""

    def written(call: Call) -> str:
        graph, diagonal = call.graph, call.graph.number(call["diagonal"], torch.int64)
        # ONNX Runtime knows no triangle of truth values.
        kind = torch.float32 if call.dtype == torch.bool else call.dtype
        return graph.cast(graph.node("Trilu", graph.cast(call.x, kind), diagonal, upper=int(upper)), call.dtype)

    return written


def one_hot(call: Call) -> str:
    """A one at each place among zeros, along a new last dimension."""
    classes = call.operation.meta["val"].shape[-1]
    if not isinstance(classes, int):
        raise call.unsupported("with a number of classes that depends on the data")
    values = call.graph.constant(torch.tensor([0, 1]))
    return call.graph.node("OneHot", call.x, call.graph.number(classes, torch.int64), values, axis=-1)


def diagonal(call: Call) -> str:
    """The diagonal of two dimensions, as a new last one."""
    first, second = (call.dim(name) for name in ("dim1", "dim2"))
    rows, columns = (torch.arange(call.size(dim)) for dim in (first, second))
    places: Tensor = (rows[:, None] * len(columns) + columns).diagonal(call["offset"])
    rest = [dim for dim in range(len(call.shape)) if dim not in {first, second}]
    x = call.graph.node("Transpose", call.x, perm=[*rest, first, second])
    shape = [call.shape[dim] for dim in rest]
    flat = reshaped(call, x, [*shape, len(rows), len(columns)], [*shape, len(rows) * len(columns)])
    return call.graph.node("Gather", flat, call.graph.constant(places), axis=len(rest))


def differences(call: Call) -> str:
    """What each number is more than the one before it."""
    if call["n"] != 1 or call.dtype == torch.bool:
        raise call.unsupported("of truth values, or several times over")
    axis = call.dim()
    ends = (call["prepend"], call["self"], call["append"])
    parts = [operand(call, each) for each in ends if each is not None]
    x = call.graph.node("Concat", *parts, axis=axis) if len(parts) > 1 else parts[0]
    return call.graph.node("Sub", part(call, x, axis, 1, END), part(call, x, axis, 0, -1))


TABLE: Table = {
    "aten.copy": copy,
    "aten.diagonal": diagonal,
    "aten.diff": differences,
    "aten.flip": flip,
    "aten.gather": gather,
    "aten.index.Tensor": index,
    "aten.index_put": index_put,
    "aten.one_hot": one_hot,
    "aten.roll": roll,
    "aten.scatter.src": scatter(),
    "aten.scatter.value": scatter(),
    "aten.scatter_add": scatter("add"),
    "aten.select_scatter": select_scatter,
    "aten.slice_scatter": slice_scatter,
    "aten.tril": triangle(upper=False),
    "aten.triu": triangle(upper=True),
}
