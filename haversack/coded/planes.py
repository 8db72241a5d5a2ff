"""Planes: bytes of one kind, packed in as few bits as tell them apart or coded by how often they come.

A plane of a matrix (or of anything with two dimensions or more) may give each row and each column a class; the sum of
the two picks the element's frequency table. Channels differ in how wide their weights spread, and those that pruning
emptied then cost next to nothing. Kernels are smooth: there, the weight before may pick the table instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import BitReader, BitWriter, Cursor, packed, packed_bytes, unpacked, varint, width_of
from haversack.coded.classes import CLASSES, FIRST, LEAST, Classes, borders_of, class_of, likeliest
from haversack.coded.rans import Coded, Decoder, Tables
from haversack.coded.tables import chosen, read_table
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

_PACKED, _CODED, _SPLIT, _BESIDE = 0, 1, 2, 0x41
# Larger ones are split untried where splitting makes sense.
_LARGE = 1 << 20
# A frequency table is charged for the time that it takes, too: eleven bits of a file make one.
_TABLE_BYTES = 1 << 14


@dataclass(frozen=True, eq=False)
class Plane:
    """One way of writing bytes: what the file's head holds of them, and what its coded part does, if anything."""

    head: bytes
    coded: tuple[Coded, ...] = ()

    @property
    def bytes_written(self) -> float:
        """Its share of the file."""
        return len(self.head) + sum(each.bits for each in self.coded) / 8


def plane(values: Array) -> Plane:
    """The shortest plane of the uint8 `values`, of which there is at least one."""
    split = _split(values)
    if split and values.size > _LARGE:
        return split
    whole = _whole(values)
    return split if split and split.bytes_written < whole.bytes_written else whole


def plain_plane(values: Array) -> Plane:
    """The plane in which the uint8 `values` stand as they are."""
    return Plane(bytes([_PACKED, 0, 0xFF]) + values.tobytes())


def _whole(values: Array) -> Plane:
    low, high = int(values.min()), int(values.max())
    symbols, count = values - np.uint8(low), high - low + 1
    ends = bytes([low, count - 1])
    packed_plane = Plane(bytes([_PACKED]) + ends + packed(symbols, width_of(count)))
    coded = _coded(symbols, count, ends, likeliest(symbols, count))
    ways = [packed_plane, coded, *_beside(symbols, count, ends)]
    return min(ways, key=lambda each: each.bytes_written)


def _coded(symbols: Array, count: int, ends: bytes, classes: Classes) -> Plane:
    written, tables = _written(classes.counts(symbols, count))
    mode = _CODED | classes.row_bits << 2 | classes.column_bits << 4
    head = bytes([mode]) + ends + classes.content + written
    return Plane(head, (Coded(symbols.ravel(), tables, classes.of_each(symbols.shape)),))


def _beside(symbols: Array, count: int, ends: bytes) -> Iterator[Plane]:
    """Kernels place by place, each symbol's table picked by the symbol before it, where kernels have places."""
    cells = symbols.reshape(math.prod(symbols.shape[:2]), -1)
    if symbols.ndim > 2 and cells.shape[1] > 1 and symbols.size >= LEAST:
        borders = borders_of(cells)
        which = np.full(cells.shape, FIRST, np.uint8)
        which[:, 1:] = class_of(cells[:, :-1], borders)
        counts = np.bincount((which.astype(np.intp) * count + cells).ravel(), minlength=CLASSES * count)
        written, tables = _written(counts.reshape(CLASSES, count))
        places = zip(cells.T, which.T, strict=True)
        yield Plane(
            bytes([_BESIDE]) + ends + borders.tobytes() + written, tuple(Coded(s, tables, w) for s, w in places)
        )


def _written(counts: Array) -> tuple[bytes, Tables]:
    """Tables for symbols that come `counts` times (tables, count), as the head holds them."""
    writer = BitWriter()
    tables = [chosen(each)[0] for each in counts]
    for table in tables:
        table.write(writer)
    return writer.content, Tables(np.stack([table.frequencies for table in tables]))


def _split(values: Array) -> Plane | None:
    """Where the commonest byte is, and then the others: shorter where that one is most of them."""
    counts = np.bincount(values.ravel(), minlength=256)
    commonest = int(counts.argmax())
    if counts[commonest] * 2 < values.size or (counts > 0).sum() < 3:
        return None
    others = values != commonest
    where, rest = _whole(others.astype(np.uint8)), _whole(values[others])
    start = bytes([_SPLIT, commonest])
    return Plane(start + where.head + varint(int(others.sum())) + rest.head, where.coded + rest.coded)


@dataclass(frozen=True, eq=False)
class Literal:
    """A plane whose bytes stand in the head."""

    content: Array

    def values(self, decoder: Decoder) -> Array:  # noqa: ARG002 - what other planes need
        """The bytes."""
        return self.content


@dataclass(frozen=True, eq=False)
class Symbols:
    """A coded plane whose head was read: `values` gives its bytes when the planes before it have given theirs."""

    shape: tuple[int, ...]
    low: int
    tables: Tables
    classes: Classes

    def values(self, decoder: Decoder) -> Array:
        """The bytes, uint8 of `shape`."""
        symbols = decoder.symbols(math.prod(self.shape), self.tables, self.classes.of_each(self.shape))
        return (symbols + np.uint8(self.low)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Beside:
    """A plane coded place by place, each symbol by a table that the one before it in its kernel picks."""

    shape: tuple[int, ...]
    low: int
    tables: Tables
    borders: Array

    def values(self, decoder: Decoder) -> Array:
        """The bytes, uint8 of `shape`."""
        cells = math.prod(self.shape[:2])
        places, which = [], np.full(cells, FIRST, np.uint8)
        for _ in range(math.prod(self.shape[2:]) if cells else 0):
            places.append(decoder.symbols(cells, self.tables, which))
            which = class_of(places[-1], self.borders)
        symbols = np.stack(places, 1) if places else np.zeros(0, np.uint8)
        return (symbols + np.uint8(self.low)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Split:
    """A plane in two: where its commonest byte is not, and the bytes there."""

    commonest: int
    where: Literal | Symbols | Beside
    rest: Literal | Symbols | Beside
    count: int

    def values(self, decoder: Decoder) -> Array:
        """The bytes, uint8."""
        others, rest = self.where.values(decoder) == 1, self.rest.values(decoder)
        if int(others.sum()) != self.count:
            raise CodedError("the file is damaged.", mend="fetch it again.")
        whole = np.full(others.shape, self.commonest, np.uint8)
        whole[others] = rest
        return whole


Found = Literal | Symbols | Beside | Split


def find_plane(cursor: Cursor, shape: tuple[int, ...]) -> Found:
    """The plane whose head stands at the cursor; raises CodedError where none does."""
    mode = cursor.byte()
    if mode != _SPLIT:
        return _find_whole(cursor, shape, mode)
    commonest, where = cursor.byte(), _find_whole(cursor, shape, cursor.byte())
    count = cursor.varint()
    if count > math.prod(shape):
        raise CodedError("the file is damaged.", mend="fetch it again.")
    return Split(commonest, where, _find_whole(cursor, (count,), cursor.byte()), count)


def _find_whole(cursor: Cursor, shape: tuple[int, ...], mode: int) -> Literal | Symbols | Beside:
    low, count, size = cursor.byte(), cursor.byte() + 1, math.prod(shape)
    if low + count > 256 or (mode & 0xC2 and mode != _BESIDE):
        raise CodedError("the file is damaged.", mend="fetch it again.")
    if mode == _PACKED:
        width = width_of(count)
        symbols = unpacked(cursor.take(packed_bytes(width, size)), width, size)
        if symbols.size and int(symbols.max()) >= count:
            raise CodedError("the file is damaged.", mend="fetch it again.")
        return Literal((symbols + np.uint8(low)).reshape(shape))
    if mode == _BESIDE:
        if len(shape) < 3:
            raise CodedError("the file is damaged.", mend="fetch it again.")
        borders = np.frombuffer(cursor.take(CLASSES - 1), np.uint8)
        return Beside(shape, low, _tables(cursor, count, CLASSES), borders)
    classes = Classes.read(cursor, mode >> 2 & 3, mode >> 4 & 3, shape)
    return Symbols(shape, low, _tables(cursor, count, classes.tables), classes)


def _tables(cursor: Cursor, count: int, tables: int) -> Tables:
    cursor.claim(_TABLE_BYTES * tables)
    reader = BitReader(cursor)
    return Tables(np.stack([read_table(reader, count) for _ in range(tables)]))
