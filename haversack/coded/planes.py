"""Planes: bytes of one kind, packed in as few bits as tell them apart or coded by how often they come.

A plane of a matrix (or of anything with two dimensions or more) may give each row and each column a class; the sum of
the two picks the element's frequency table. Channels differ in how wide their weights spread, and those that pruning
emptied then cost next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import BitReader, BitWriter, Cursor, packed, packed_bytes, unpacked, width_of
from haversack.coded.classes import Classes, classified
from haversack.coded.rans import Coded, Decoder, Tables
from haversack.coded.tables import chosen, read_table
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

_PACKED, _CODED = 0, 1


@dataclass(frozen=True, eq=False)
class Plane:
    """One way of writing bytes: what the file's head holds of them, and what its coded part does, if anything."""

    head: bytes
    coded: Coded | None = None

    @property
    def bytes_written(self) -> float:
        """Its share of the file."""
        return len(self.head) + (self.coded.bits / 8 if self.coded else 0)


def plane(values: Array) -> Plane:
    """The shortest plane of the uint8 `values`, of which there is at least one."""
    low, high = int(values.min()), int(values.max())
    symbols, count = values - np.uint8(low), high - low + 1
    ends = bytes([low, count - 1])
    width = width_of(count)
    ways = [_coded(symbols, count, ends, classes) for classes in classified(symbols, count)]
    shortest = min(ways, key=lambda each: each.bytes_written)
    if packed_bytes(width, values.size) + len(ends) + 1 <= shortest.bytes_written:
        return Plane(bytes([_PACKED]) + ends + packed(symbols, width))
    return shortest


def _coded(symbols: Array, count: int, ends: bytes, classes: Classes) -> Plane:
    writer = BitWriter()
    tables = []
    for counts in classes.counts(symbols, count):
        table, _ = chosen(counts)
        table.write(writer)
        tables.append(table.frequencies)
    mode = _CODED | classes.row_bits << 2 | classes.column_bits << 4
    head = bytes([mode]) + ends + classes.content + writer.content
    return Plane(head, Coded(symbols.ravel(), Tables(np.stack(tables)), classes.of_each(symbols.shape)))


@dataclass(frozen=True, eq=False)
class Found:
    """A plane whose head was read: `values` gives its bytes, in the file's order of planes."""

    shape: tuple[int, ...]
    low: int
    literal: Array | None = None
    tables: Tables | None = None
    classes: Classes | None = None

    def values(self, decoder: Decoder) -> Array:
        """The bytes, uint8 of `shape`."""
        symbols = self.literal
        if self.tables is not None and self.classes is not None:
            which = self.classes.of_each(self.shape)
            symbols = decoder.symbols(math.prod(self.shape), self.tables, which)
        assert symbols is not None
        return (symbols + np.uint8(self.low)).reshape(self.shape)


def find_plane(cursor: Cursor, shape: tuple[int, ...]) -> Found:
    """The plane whose head stands at the cursor; raises CodedError where none does."""
    mode, low, count = cursor.byte(), cursor.byte(), cursor.byte() + 1
    if low + count > 256 or mode & ~(_CODED | 0x3C):
        raise CodedError("the file is damaged.", mend="fetch it again.")
    size = math.prod(shape)
    cursor.claim(size)
    if not mode & _CODED:
        width = width_of(count)
        literal = unpacked(cursor.take(packed_bytes(width, size)), width, size)
        if width and int(literal.max()) >= count:
            raise CodedError("the file is damaged.", mend="fetch it again.")
        return Found(shape, low, literal)
    classes = Classes.read(cursor, mode >> 2 & 3, mode >> 4 & 3, shape)
    tables = np.stack(list(_tables(cursor, count, classes.tables)))
    return Found(shape, low, tables=Tables(tables), classes=classes)


def _tables(cursor: Cursor, count: int, tables: int) -> Iterator[Array]:
    reader = BitReader(cursor)
    for _ in range(tables):
        yield read_table(reader, count)
