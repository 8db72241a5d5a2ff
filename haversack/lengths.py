"""Lengths: which sizes of the inputs, beside the batch, differ from one run to the next, and what they are called."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from haversack.errors import ExportError, TaskError

Free = Mapping[str, Mapping[int, str]]
"""As a task says it: an input's name, and what those of its dimensions are called that are free."""
Axes = tuple[tuple[int, str], ...]
"""An input's free dimensions with their names."""
BATCH, LENGTH = "batch", "length"
"""What dimension 0 is called; what a free one is that has no name."""
PAD = (
    "pad all inputs to one length, or write the network so that it reads lengths off its inputs: x.shape[1] where a "
    "number stands now."
)
_SUCH = 'write such as Task(free={"tokens": {1: "length"}}): an input\'s name, its dimension, and what that is called.'


def check_free(free: object) -> None:
    """Raises TaskError for what is no mapping from inputs to dimensions and their names; None is none."""
    if free is None:
        return
    if not isinstance(free, Mapping):
        raise _wrong(f"is {type(free).__name__}, not a mapping.")
    for name, dims in free.items():
        if not isinstance(name, str):
            raise _wrong(f"has the key {name!r}, which is no input's name.")
        if not isinstance(dims, Mapping):
            raise _wrong(f"has {dims!r} for the input '{name}', which is not a mapping.")
        for dim, called in dims.items():
            _check_dim(name, dim, called)
        if len(set(dims.values())) < len(dims):
            raise _wrong(f"gives two dimensions of the input '{name}' one name.")


def _check_dim(name: str, dim: object, called: object) -> None:
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 0:
        raise _wrong(f"has the dimension {dim!r} of the input '{name}'; dimensions are counted from 0.")
    if dim == 0:
        raise _wrong(f"names dimension 0 of the input '{name}': that is the batch, which is free anyway.")
    if not isinstance(called, str) or not called.isidentifier() or called == BATCH:
        raise _wrong(f"calls dimension {dim} of the input '{name}' {called!r}, which is no name for it.")


def _wrong(what: str) -> TaskError:
    return TaskError(f"Task.free {what}", mend=_SUCH)


def axes_of(free: Free | None, names: Sequence[str], batches: Sequence[tuple[Tensor, ...]]) -> tuple[Axes, ...]:
    """The free dimensions of each input, those of these `names`; () where no input has any.

    They are those that `free` names. Where it is None, they are those whose sizes differ among the batches; of
    different inputs, those that always have equal sizes share one name. Raises TaskError for an input or a dimension
    that is not there, and for a size that differs though it is not named.
    """
    sizes = [[tuple(value.shape) for value in values] for values in zip(*batches, strict=True)]
    found = _read_off(sizes) if free is None else _named(free, names, sizes)
    return found if any(found) else ()


def _read_off(sizes: Sequence[Sequence[tuple[int, ...]]]) -> tuple[Axes, ...]:
    called: dict[tuple[tuple[int, ...], int], str] = {}
    found = []
    for shapes in sizes:
        axes: list[tuple[int, str]] = []
        seen: list[tuple[int, ...]] = []
        for dim in _differing(shapes):
            along = tuple(shape[dim] for shape in shapes)
            # The second of an input's own dimensions with these sizes, such as a square's, is another one.
            key = along, seen.count(along)
            seen.append(along)
            axes.append((dim, called.setdefault(key, f"{LENGTH}{len(called) + 1 if called else ''}")))
        found.append(tuple(axes))
    return tuple(found)


def _differing(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    return [dim for dim in range(1, len(shapes[0])) if len({shape[dim] for shape in shapes}) > 1]


def _named(free: Free, names: Sequence[str], sizes: Sequence[Sequence[tuple[int, ...]]]) -> tuple[Axes, ...]:
    ranks = dict(zip(names, (len(shapes[0]) for shapes in sizes), strict=False))
    for name, dims in free.items():
        if name not in ranks:
            raise _wrong(f"names the input '{name}'; there is {', '.join(map(repr, ranks)) or 'none with a name'}.")
        for dim in dims:
            if dim >= ranks[name]:
                raise _wrong(f"names dimension {dim} of the input '{name}', which has {ranks[name]} dimensions.")
    for name, shapes in zip(names or [""] * len(sizes), sizes, strict=True):
        _check_others(f"the input '{name}'" if name else "an input", shapes, free.get(name, {}))
    return tuple(tuple(sorted(free.get(name, {}).items())) for name in names)


def _check_others(which: str, shapes: Sequence[tuple[int, ...]], free: Mapping[int, str]) -> None:
    """Raises TaskError where a size differs that is not free."""
    for dim in _differing(shapes):
        if dim not in free:
            few = " and ".join(map(str, sorted({shape[dim] for shape in shapes})[:2]))
            raise TaskError(
                f"{which} has {few} along dimension {dim}, which Task.free does not name.",
                where="calibrate()",
                mend="name each dimension that differs in Task.free, or pad all inputs to one size.",
            )


def require_fixed(free: Sequence[Axes], what: str) -> None:
    """Raises ExportError where a length is free, saying that `what` has fixed sizes."""
    names = dict.fromkeys(f"'{name}'" for axes in free for _, name in axes)
    if names:
        raise ExportError(
            f"{what} has fixed sizes, and the network's inputs have free lengths: {', '.join(names)}.",
            mend='say what shorter inputs are filled up with, such as Task(pad={"tokens": 0}); or pad all inputs to '
            "one length, in calibrate() too, and name none in Task.free; or choose a runtime that takes any length, "
            "such as onnx.",
        )


def longest(batches: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The batch whose samples hold the most numbers; the first of several."""
    return max(batches, key=lambda batch: sum(math.prod(value.shape[1:]) for value in batch))


def of_each_length(batches: Sequence[tuple[Tensor, ...]]) -> list[list[tuple[Tensor, ...]]]:
    """The batches apart by the sizes of their samples, in the order in which these come."""
    found: dict[tuple[tuple[int, ...], ...], list[tuple[Tensor, ...]]] = {}
    for batch in batches:
        found.setdefault(tuple(tuple(value.shape[1:]) for value in batch), []).append(batch)
    return list(found.values())
