"""Builder: the integer graph while it grows: operations, values and constants, each stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haversack.grid import Grid
from haversack.integer import Array, Operation, Value
from haversack.integer.read.placed import Constant, Order, Placed, Size, Sizes


@dataclass(frozen=True)
class Cut:
    """What a STRIDED_SLICE takes of each axis that it cuts: {axis: (begin, end, step)}."""

    source: Placed
    axes: dict[int, tuple[int, int, int]]


@dataclass(frozen=True)
class PaddedAxes:
    """How many zeros a PAD puts before and behind each axis."""

    source: Placed
    sides: tuple[tuple[int, int], ...]


class Builder:
    """Writes operations in order; what was made once for a value is found again."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.operations: list[Operation] = []
        self.path = ""
        self.cuts: dict[str, Cut] = {}
        self.margins: dict[str, PaddedAxes] = {}
        self._made: dict[tuple[object, ...], Any] = {}

    def emit(self, kind: str, inputs: Sequence[str], result: Placed, **options: object) -> Placed:
        """The result of one more operation; `result` says what it is, but for its name."""
        placed = self.declare(result)
        self._append(kind, inputs, (placed.name,), options)
        return placed

    def emit_all(self, kind: str, inputs: Sequence[str], results: Sequence[Placed], **options: object) -> list[Placed]:
        """The results of an operation that has several."""
        placed = [self.declare(result) for result in results]
        self._append(kind, inputs, tuple(each.name for each in placed), options)
        return placed

    def declare(self, result: Placed, name: str = "") -> Placed:
        """A new value."""
        name = name or self._free(f"a{len(self.values)}")
        dtype = "int32" if result.counted else "float32" if result.grid is None else f"int{max(8, result.grid.bits)}"
        self.values[name] = Value(name, result.shape, dtype, result.grid)
        return replace(result, name=name)

    def _free(self, name: str) -> str:
        """The name, but for those that inputs have."""
        return self._free(f"{name}_") if name in self.values else name

    def _append(self, kind: str, inputs: Sequence[str], outputs: tuple[str, ...], options: dict[str, object]) -> None:
        self.operations.append(Operation(kind, tuple(inputs), outputs, options, self.path))

    def constant(self, data: Array, grid: Grid | None = None) -> str:
        """The name of a constant; equal ones have one name. Its numbers are not copied, however they lie."""
        digest = hashlib.sha1(np.ascontiguousarray(data).data, usedforsecurity=False).digest()
        key = ("constant", data.dtype.name, data.shape, grid, digest)
        if key not in self._made:
            name = self._free(f"w{len(self.values)}")
            self.values[name] = Value(name, data.shape, data.dtype.name, grid, data)
            self._made[key] = name
        name = self._made[key]
        return str(name)

    def integers(self, *numbers: int) -> str:
        """A constant of plain integers, such as axes."""
        return self.constant(np.array(numbers, np.int32))

    def scalar(self, number: int) -> str:
        """A constant that is one plain integer without an axis."""
        return self.constant(np.array(number, np.int32))

    def table(self, rows: Sequence[Sequence[int]]) -> str:
        """A constant of rows of plain integers, such as the sides of a padding."""
        return self.constant(np.array(rows, np.int32))

    def cut(self, placed: Placed, axes: dict[int, tuple[int, int, int]], sizes: Sizes) -> Placed:
        """What lies from begin to end, by step, along some axes; torch then sees `sizes`.

        Cuts along different axes that follow each other are one STRIDED_SLICE.
        """
        before = self.cuts.get(placed.name)
        source = placed
        if before is not None and before.source.order == placed.order and not before.axes.keys() & axes.keys():
            source, axes = before.source, before.axes | axes
        begin, end, step = (
            self.integers(*(axes.get(axis, whole)[part] for axis, whole in enumerate(_all(source))))
            for part in range(3)
        )
        kept = sum(1 << axis for axis in range(len(source.order)) if axis not in axes)
        inputs = (source.name, begin, end, step)
        result = self.emit("STRIDED_SLICE", inputs, replace(placed, sizes=sizes), begin_mask=kept, end_mask=kept)
        self.cuts[result.name] = Cut(source, axes)
        return result

    def stored(self, constant: Constant, bits: int = 0) -> str:
        """The name of a constant of the network as it is; `bits` widens its integers."""
        if constant.grid is None:
            return self.constant(_numpy(constant.tensor, torch.float32))
        width = max(bits, 8 if constant.grid.bits <= 8 else 16 if constant.grid.bits <= 16 else 32)
        dtype = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}[width]
        return self.constant(_numpy(constant.tensor, dtype), constant.grid)

    def stored_real(self, constant: Constant) -> str:
        """The name of a constant as real numbers: dequantized by the file where it is stored as integers."""
        name = self.stored(constant)
        if constant.grid is None:
            return name
        sizes = tuple(Size(size) for size in constant.tensor.shape)
        return self._once(("real", name), "DEQUANTIZE", name, Placed("", tuple(range(len(sizes))), sizes)).name

    def real(self, placed: Placed) -> Placed:
        """The value as real numbers."""
        if placed.grid is None:
            return placed
        made = self._once(("real", placed.name), "DEQUANTIZE", placed.name, replace(placed, grid=None))
        return replace(placed, name=made.name, grid=None)

    def once(self, kind: str, placed: Placed, result: Placed, *others: str) -> Placed:
        """The result of an operation on real numbers, which is made once for whoever asks for it."""
        return self._once((kind, placed.name, others), kind, placed.name, result, *others)

    def on_grid(self, placed: Placed, grid: Grid) -> Placed:
        """The value rounded to a grid."""
        if placed.grid == grid:
            return placed
        made = self._once(("grid", placed.name, grid), "QUANTIZE", placed.name, replace(placed, grid=grid))
        return replace(placed, name=made.name, grid=grid)

    def laid(self, placed: Placed, order: Order) -> Placed:
        """The value with its dimensions in the wanted order: as it is, reshaped, or transposed where it must be."""
        placed = self.unmixed(placed)
        if placed.order == order:
            return placed
        target = replace(placed, order=order)
        if placed.long() == target.long():
            return self.reshape(placed, target)
        bare = tuple(dim for dim in order if dim is not None)
        if len(order) != len(placed.order):
            flat = tuple(dim for dim in placed.order if dim is not None)
            turned = self._transposed(self.reshape(placed, replace(placed, order=flat)), bare)
            return self.reshape(turned, target)
        return self._transposed(placed, order)

    def _transposed(self, placed: Placed, order: Order) -> Placed:
        left = list(enumerate(placed.order))
        turn = []
        for dim in order:
            found = next(pair for pair in left if pair[1] == dim)
            left.remove(found)
            turn.append(found[0])
        target, key = replace(placed, order=order), ("turned", placed.name, tuple(turn))
        if turn == sorted(turn):
            return target
        made = self._once(key, "TRANSPOSE", placed.name, target, self.integers(*turn))
        return replace(target, name=made.name)

    def reshape(self, placed: Placed, target: Placed) -> Placed:
        """The same numbers in the target's shape; nothing is written where the shape is the same."""
        if placed.shape == target.shape:
            return replace(target, name=placed.name, grid=placed.grid)
        first = target.order[0] if target.order else None
        free = first is not None and target.sizes[first].free
        shape = self.integers(*((-1, *target.shape[1:]) if free else target.shape))
        target = replace(target, grid=placed.grid)
        made = self._once(("shape", placed.name, target.shape), "RESHAPE", placed.name, target, shape)
        return replace(target, name=made.name)

    def unmixed(self, placed: Placed) -> Placed:
        """The value with its columns in torch's order."""
        mixed = placed.columns
        if mixed is None:
            return placed
        *front, _ = placed.sizes
        inside = [Size(size) for size in mixed.sizes]
        wide = Placed(placed.name, tuple(range(len(front) + len(inside))), (*front, *inside), placed.grid)
        wide = self.reshape(placed, wide)
        turned = self._transposed(wide, (*range(len(front)), *(len(front) + axis for axis in mixed.back)))
        return self.reshape(turned, replace(placed, columns=None))

    def _once(self, key: tuple[object, ...], kind: str, name: str, result: Placed, *others: str) -> Placed:
        if key not in self._made:
            self._made[key] = self.emit(kind, (name, *others), result)
        made: Placed = self._made[key]
        return made

    def finished(self, outputs: Sequence[str]) -> tuple[dict[str, Value], tuple[Operation, ...]]:
        """The values and operations that the outputs depend on."""
        read, kept = set(outputs), []
        for operation in reversed(self.operations):
            if read.intersection(operation.outputs):
                kept.append(operation)
                read.update(operation.inputs)
        named = read.union(*(operation.outputs for operation in kept))
        return {name: value for name, value in self.values.items() if name in named}, tuple(reversed(kept))


def _numpy(tensor: Tensor, dtype: torch.dtype) -> Array:
    data: Array = tensor.detach().to(dtype).numpy()
    return data


def _all(placed: Placed) -> list[tuple[int, int, int]]:
    return [(0, size, 1) for size in placed.shape]
