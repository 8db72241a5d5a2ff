"""Classes: rows and columns whose weights spread alike, beside neighbours that are alike, share a frequency table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import Cursor, packed, packed_bytes, unpacked
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

# Bits of the classes of rows and of columns.
_DIVISIONS = ((1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, 2))
_ROUNDS, _PRIOR = 4, 4
# What tables take, roughly: smooth ones of many symbols stay short.
_BITS_A_SYMBOL, _BITS_A_TABLE = 5, 200
# Smaller tensors do not pay for the search; of larger ones a sample is enough.
LEAST, _SAMPLE = 256, 1 << 17


@dataclass(frozen=True, eq=False)
class Classes:
    """The class of each row (index of the first dimension) and column (of the second), uint8, in so many bits each."""

    rows: Array
    columns: Array
    row_bits: int = 0
    column_bits: int = 0

    @property
    def tables(self) -> int:
        """How many tables the sums of two classes can name."""
        return (1 << self.row_bits) + (1 << self.column_bits) - 1

    @property
    def content(self) -> bytes:
        """The classes as the file holds them: of all rows, then of all columns."""
        return packed(self.rows, self.row_bits) + packed(self.columns, self.column_bits)

    def of_each(self, shape: tuple[int, ...]) -> Array | None:
        """The table of each element of a tensor of `shape`, flattened; None where there is one table."""
        if self.tables == 1:
            return None
        sums = self.rows[:, None] + self.columns[None, :]
        return np.repeat(sums, math.prod(shape[2:]))

    def counts(self, symbols: Array, count: int) -> Array:
        """How often each table's symbols come, int64 (tables, count)."""
        which = self.of_each(symbols.shape)
        places = symbols.ravel().astype(np.intp)
        if which is not None:
            places += which.astype(np.intp) * count
        return np.bincount(places, minlength=self.tables * count).reshape(self.tables, count)

    @classmethod
    def read(cls, cursor: Cursor, row_bits: int, column_bits: int, shape: tuple[int, ...]) -> Classes:
        """The classes at the cursor; raises CodedError where a tensor of `shape` has none."""
        if row_bits == column_bits == 0:
            return ONE
        if len(shape) < 2 or max(row_bits, column_bits) > 2:
            raise CodedError("the file is damaged.", mend="fetch it again.")
        parts = [
            unpacked(cursor.take(packed_bytes(bits, size)), bits, size)
            for bits, size in zip((row_bits, column_bits), shape[:2], strict=True)
        ]
        return cls(parts[0], parts[1], row_bits, column_bits)


ONE = Classes(np.zeros(0, np.uint8), np.zeros(0, np.uint8))
"""One table for all."""


def likeliest(symbols: Array, count: int) -> Classes:
    """The division that promises the shortest plane of symbols below `count`."""
    ways = [(ONE, likely_bits(ONE.counts(symbols, count)))]
    if symbols.ndim >= 2 and count > 1 and symbols.size >= LEAST:
        cells = symbols.reshape(*symbols.shape[:2], -1)
        possible = (
            bits
            for bits in _DIVISIONS
            if all(size >= 2 << each for size, each in zip(symbols.shape, bits, strict=False))
        )
        ways += [_divided(cells, count, *bits) for bits in possible]
    return min(ways, key=lambda each: each[1])[0]


def likely_bits(counts: Array) -> float:
    """About how many bits tables, whose symbols come `counts` times (tables, count), and these symbols take."""
    present = counts > 0
    logarithms = np.log2(counts, where=present, out=np.zeros(counts.shape))
    totals = counts.sum(1)
    entropy = (totals * np.log2(np.maximum(totals, 1))).sum() - (counts * logarithms).sum()
    return float(entropy + np.minimum(_BITS_A_SYMBOL * present.sum(1), _BITS_A_TABLE).sum())


def _divided(cells: Array, count: int, row_bits: int, column_bits: int) -> tuple[Classes, float]:
    """The division that assigning rows and columns to tables, by turns, arrives at (Lloyd's algorithm); its bits.

    Of a large tensor of many symbols, every n-th column decides about the rows, and every n-th row about the columns.
    """
    every = max(1, cells.size // _SAMPLE) if count > 2 else 1
    down, across = cells[:, ::every], cells.transpose(1, 0, 2)[:, ::every]
    rare = -np.log2((np.bincount(cells.ravel(), minlength=count) + 0.5) / cells.size)
    rows = _ranked(_tallies(down, count)[:, 0] @ rare, row_bits)
    columns = _ranked(_tallies(across, count)[:, 0] @ rare, column_bits)
    for _ in range(_ROUNDS):
        before = rows, columns
        rows, _ = _assigned(_tallies(down, count, columns[::every]), rows, row_bits)
        columns, counts = _assigned(_tallies(across, count, rows[::every]), columns, column_bits)
        if np.array_equal(rows, before[0]) and np.array_equal(columns, before[1]):
            break
    bits = likely_bits(counts * every) + len(rows) * row_bits + len(columns) * column_bits
    return Classes(rows, columns, row_bits, column_bits), bits


def _ranked(values: Array, bits: int) -> Array:
    """Classes of equal size, in the order of `values`."""
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray((ranks << bits) // len(values), np.uint8)


def _tallies(cells: Array, count: int, others: Array | None = None) -> Array:
    """How often each symbol comes in each row, by the class of the column: (rows, classes, count)."""
    if others is None:
        others = np.zeros(cells.shape[1], np.uint8)
    kinds = int(others.max()) + 1
    if count == 2:
        members = (others[:, None] == np.arange(kinds)).astype(np.float32)
        ones = cells.sum(2, dtype=np.float32) @ members
        return np.stack([members.sum(0) * cells.shape[2] - ones, ones], 2)
    places = (np.arange(len(cells))[:, None] * kinds + others)[:, :, None] * count + cells
    tallies = np.bincount(places.ravel(), minlength=len(cells) * kinds * count).astype(np.float32)
    return tallies.reshape(len(cells), kinds, count)


def _assigned(tallies: Array, classes: Array, bits: int) -> tuple[Array, Array]:
    """Each row's best class, given the tables that `classes` make; and how often each table's symbols then come."""
    kinds = tallies.shape[1]
    counts = _summed(tallies, classes, bits)
    shares = counts + _PRIOR * counts.sum(0) / counts.sum() + 1e-3
    costs = -np.log2(shares / shares.sum(1, keepdims=True))
    if bits:
        own = np.stack([costs[each : each + kinds].ravel() for each in range(1 << bits)], 1).astype(np.float32)
        classes = (tallies.reshape(len(tallies), -1) @ own).argmin(1).astype(np.uint8)
    return classes, _summed(tallies, classes, bits)


def _summed(tallies: Array, classes: Array, bits: int) -> Array:
    """How often each table's symbols come: (tables, count)."""
    kinds = tallies.shape[1]
    counts = np.zeros((kinds + (1 << bits) - 1, tallies.shape[2]))
    members = (np.arange(1 << bits)[:, None] == classes).astype(np.float32)
    sums = (members @ tallies.reshape(len(tallies), -1)).reshape(-1, *tallies.shape[1:])
    for each in range(1 << bits):
        counts[each : each + kinds] += sums[each]
    return counts


CLASSES = 5
"""Far below, below, about, above and far above the mean; a table each."""
FIRST = 2
"""The class of a kernel's first weight, which nothing comes before."""
_DEVIATIONS = np.array([-1.0, -0.3, 0.3, 1.0])


def borders_of(symbols: Array) -> Array:
    """The least symbol of each class but the first, uint8."""
    borders = np.ceil(symbols.mean() + symbols.std() * _DEVIATIONS)
    return np.asarray(np.clip(borders, 0, 255), np.uint8)


def class_of(before: Array, borders: Array) -> Array:
    """The class that each symbol puts the next one in: how many borders it reaches; uint8."""
    return np.asarray(np.sum([before >= border for border in borders], axis=0, dtype=np.uint8))
