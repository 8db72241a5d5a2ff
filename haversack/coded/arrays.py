"""Arrays: numbers of any of the common kinds, byte plane by byte plane.

The bytes of floats are not alike: the one with sign and exponent takes few values, the others look random. So each byte
of all elements makes a plane of its own, which is coded where that is shorter, and stored as it is where not. A float32
array that float16 holds exactly is stored as that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import Cursor
from haversack.coded.classes import ONE, likely_bits
from haversack.coded.planes import Found, Literal, Plane, find_plane, plane
from haversack.coded.rans import Decoder
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

KINDS = tuple(np.dtype(kind) for kind in ("<f4", "<f2", "<f8", "|i1", "|u1", "<i2", "<u2", "<i4", "<i8"))
"""What an array may hold; a file names it by its place here."""
_HALVED = len(KINDS)
_FLOAT, _HALF = KINDS[:2]


@dataclass(frozen=True, eq=False)
class Planes:
    """An array as it is written: the start of its head, then its planes."""

    start: bytes
    planes: tuple[Plane, ...]

    @property
    def bytes_written(self) -> float:
        """Its share of the file."""
        return len(self.start) + sum(each.bytes_written for each in self.planes)


def planes(array: Array) -> Planes:
    """The shortest way to write `array`, whose kind is one of KINDS."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    kind = KINDS.index(flat.dtype)
    if flat.dtype == _FLOAT and _is_half(flat):
        flat, kind = flat.astype(_HALF), _HALVED
    ways = [Plane(part.tobytes()) if part.size < 2 else _shorter(part) for part in _bytes_of(flat)]
    mask = sum(bool(each.coded) << place for place, each in enumerate(ways))
    return Planes(bytes([kind, mask]), tuple(ways))


def plain_planes(array: Array) -> Planes:
    """The array byte plane by byte plane, with nothing shortened."""
    flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    ways = tuple(Plane(part.tobytes()) for part in _bytes_of(flat))
    return Planes(bytes([KINDS.index(flat.dtype), 0]), ways)


def _bytes_of(flat: Array) -> Array:
    """Each byte of all elements, the lowest first: (bytes, elements)."""
    return flat.view(np.uint8).reshape(flat.size, -1).T if flat.size else np.zeros((flat.itemsize, 0), np.uint8)


def _is_half(flat: Array) -> bool:
    """Whether 16 bits hold these floats to the bit; processors differ in what they do to NaN, so not those."""
    with np.errstate(over="ignore", invalid="ignore"):
        back = flat.astype(_HALF).astype(_FLOAT)
    return bool((back == flat).all())


def _shorter(part: Array) -> Plane:
    if likely_bits(ONE.counts(part, 256)) > 8 * part.size:
        return Plane(part.tobytes())
    made = plane(part)
    return made if made.coded and made.bytes_written < part.size else Plane(part.tobytes())


@dataclass(frozen=True, eq=False)
class FoundArray:
    """An array whose head was read."""

    kind: int
    shape: tuple[int, ...]
    planes: tuple[Found, ...]

    def values(self, decoder: Decoder) -> Array:
        """The array, in the kind that was written."""
        parts = np.empty((math.prod(self.shape), len(self.planes)), np.uint8)
        for place, each in enumerate(self.planes):
            parts[:, place] = each.values(decoder)
        dtype = _HALF if self.kind == _HALVED else KINDS[self.kind]
        numbers = parts.reshape(-1).view(dtype).reshape(self.shape)
        return numbers.astype(_FLOAT) if self.kind == _HALVED else numbers


def find_array(cursor: Cursor, shape: tuple[int, ...], dtype: type[np.generic] | None = None) -> FoundArray:
    """The array whose head stands at the cursor; raises CodedError where none does, or one of another type."""
    kind, mask = cursor.byte(), cursor.byte()
    if kind > _HALVED or (dtype and (_FLOAT if kind == _HALVED else KINDS[kind]) != dtype):
        raise CodedError("the file is damaged.", mend="fetch it again.")
    size, width = math.prod(shape), 2 if kind == _HALVED else KINDS[kind].itemsize
    # The plane at work beside the whole, which halves become twice as wide of.
    cursor.claim(size * (6 if kind == _HALVED else width + 1))
    if mask >> width:
        raise CodedError("the file is damaged.", mend="fetch it again.")
    return FoundArray(kind, shape, tuple(_find(cursor, size, coded=bool(mask >> place & 1)) for place in range(width)))


def _find(cursor: Cursor, size: int, *, coded: bool) -> Found:
    if coded:
        return find_plane(cursor, (size,))
    return Literal(np.frombuffer(cursor.take(size), np.uint8))
