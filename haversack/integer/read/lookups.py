"""Lookups: rows of a table that the network holds, by whole numbers that are given to it, and which numbers those are.

What is found out about a whole number is a real one: 1 where it holds, and 0 where it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from haversack.graph.ops import moves
from haversack.graph.pairs import pairs
from haversack.grid import Grid
from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.ending import rounding, signed_shift
from haversack.integer.read.placed import Constant, Placed

aten = torch.ops.aten
_COUNTED, _FEW = (Grid(bits, True, (1.0,), (0,)) for bits in (8, 4))
"""Integers that stand for themselves: what they are multiplied by comes later."""


def embedding(call: TorchCall) -> Placed:
    """GATHER. Rows of integers lie on the grid on which they are dequantized; where each has its own step, on none."""
    table = call.constant(call["weight"])
    if table is None:
        call.refuse("of a table that the network computes")
    rows = call.counted(call["indices"])
    if table.grid is not None or table.tensor.dtype.is_floating_point:
        name, grid = call.builder.stored_real(table), None
    else:
        name, grid = _integers(call, table)
    result = Placed("", tuple(range(len(call.sizes))), call.sizes, grid)
    return call.builder.emit("GATHER", (name, rows.name), result)


def _integers(call: TorchCall, table: Constant) -> tuple[str, Grid]:
    reader = call.node
    while moves(reader := next(iter(reader.users))):
        pass
    numbers = table.tensor.to(torch.int16) - signed_shift(table.tensor.dtype)
    counted = _FEW if bool((numbers >= _FEW.qmin).all()) and bool((numbers <= _FEW.qmax).all()) else _COUNTED
    grid = rounding(reader).grid if reader.target is pairs.dequantize_per_tensor.default else counted
    return call.builder.constant(numbers.numpy().astype(np.int8), grid), grid


def as_real(call: TorchCall) -> Placed:
    """The whole numbers that a table holds, that are given to the network, or an input's bytes, as real ones."""
    source, dtype = call.first, call["dtype"]
    if dtype != torch.float32 or not isinstance(source, torch.fx.Node):
        call.refuse(f"to {dtype}")
    if call.is_counted(source):
        return call.cast(call.counted(source))
    if call.raw.grid is None and source.meta["val"].dtype.is_floating_point:
        call.refuse(f"to {dtype}")
    return call.builder.real(call.raw)


def _whole(call: TorchCall) -> Placed:
    """Whole numbers given to the network, or moved ones of them, as real ones."""
    source = call.first
    if isinstance(source, torch.fx.Node) and not source.meta["val"].is_floating_point() and not call.is_counted(source):
        return call.value(source)
    return call.cast(call.counted(source))


def above(shift: float) -> Callable[[TorchCall], Placed]:
    """Whether whole numbers given to the network are as large as a constant and `shift` more."""

    def write(call: TorchCall) -> Placed:
        least = call["other"] + shift
        if least != int(least):
            call.refuse(f"with {call['other']}, which is no whole number")
        return _between(call, least - 1, 1.0)

    return write


def below(shift: float) -> Callable[[TorchCall], Placed]:
    """Whether they are as small as a constant less `shift`."""

    def write(call: TorchCall) -> Placed:
        most = call["other"] - shift
        if most != int(most):
            call.refuse(f"with {call['other']}, which is no whole number")
        return _between(call, most + 1, -1.0)

    return write


def _between(call: TorchCall, start: float, sign: float) -> Placed:
    """How far the numbers are behind `start`, from 0 to 1."""
    builder = call.builder
    number, one = (builder.constant(np.array([each], np.float32)) for each in (start, 1.0))
    x = _whole(call)
    sides = (x.name, number) if sign > 0 else (number, x.name)
    return builder.emit("MINIMUM", (builder.emit("SUB", sides, x, activation="RELU").name, one), x)


def other_than(call: TorchCall) -> Placed:
    """Whether they are another number than a constant."""
    builder = call.builder
    number, one = (builder.constant(np.array([each], np.float32)) for each in (call["other"], 1.0))
    x = _whole(call)
    off = builder.emit("SUB", (x.name, number), x)
    return builder.emit("MINIMUM", (builder.emit("MUL", (off.name, off.name), x).name, one), x)


TABLE: Table = {
    aten.embedding.default: Rule(embedding),
    aten.to.dtype: Rule(as_real, moves=True),
    aten.gt.Scalar: Rule(above(1)),
    aten.ge.Scalar: Rule(above(0)),
    aten.lt.Scalar: Rule(below(1)),
    aten.le.Scalar: Rule(below(0)),
    aten.ne.Scalar: Rule(other_than),
}
