"""Classes: rows and columns whose weights spread alike share a frequency table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import Cursor, packed, packed_bytes, unpacked
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]


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


def classified(symbols: Array, count: int) -> Iterator[Classes]:
    """Divisions worth trying, the undivided tensor first."""
    yield ONE
