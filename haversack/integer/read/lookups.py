"""Lookups: rows of a table that the network holds, by whole numbers that are given to it."""

from __future__ import annotations

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


TABLE: Table = {aten.embedding.default: Rule(embedding)}
