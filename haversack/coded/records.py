"""Records: one tensor in the file's head, behind its name, of which only what differs from the one before is stored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.arrays import Planes, find_array, plain_planes, planes
from haversack.coded.bits import Cursor, varint
from haversack.coded.planes import Found, Plane, find_plane, plain_plane, plane
from haversack.coded.rans import Coded, Decoder
from haversack.coded.tensors import Codebook, Integers, Raw, Stored, integer_type
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]
Finish = Callable[[Decoder], Stored]

MOST_DIMENSIONS = 8
# Beyond this numpy makes no array, not even one without elements.
_MOST_ELEMENTS = 1 << 40
# The real numbers, and while they are decoded the bytes, what picks their tables, and what is left of an earlier step.
_BYTES_AN_ELEMENT = 5
_RAW, _INTEGERS, _CODEBOOK = range(3)
_NARROW, _UNSIGNED, _SHIFTED = 0x10, 0x20, 0x40


@dataclass(frozen=True, eq=False)
class Record:
    """A tensor as it is written."""

    head: bytes
    coded: tuple[Coded, ...]

    @property
    def bytes_written(self) -> float:
        """Its share of the file."""
        return len(self.head) + sum(each.bits for each in self.coded) / 8


def record(tensor: Stored) -> Record:
    """The shortest record of the tensor in its form."""
    return _record(tensor, planes, plane)


def plain_record(tensor: Stored) -> Record:
    """The record of the tensor in its form with nothing coded, and no choice in how it is written."""
    return _record(tensor, plain_planes, plain_plane)


def _record(tensor: Stored, array: Callable[[Array], Planes], whole: Callable[[Array], Plane]) -> Record:
    if isinstance(tensor, Raw):
        return _joined(tensor.shape, _RAW, array(tensor.values))
    if isinstance(tensor, Codebook):
        start = bytes([tensor.centroids.size - 1])
        indices = map(whole, _byte_planes(tensor.indices))
        return _joined(tensor.shape, _CODEBOOK, start, array(tensor.centroids), *indices)
    flags = tensor.bits - 1 | tensor.narrow * _NARROW | (not tensor.signed) * _UNSIGNED
    zeros: tuple[Planes, ...] = ()
    if tensor.zero_point.size:
        flags, zeros = flags | _SHIFTED, (array(tensor.zero_point),)
    steps = bytes([0]) if tensor.axis is None else bytes([tensor.axis + 1]) + varint(tensor.scale.size)
    start = bytes([flags]) + steps
    values = map(whole, _byte_planes(tensor.values))
    return _joined(tensor.shape, _INTEGERS, start, array(tensor.scale), *zeros, *values)


def _joined(shape: tuple[int, ...], form: int, *parts: bytes | Planes | Plane) -> Record:
    if len(shape) > MOST_DIMENSIONS:
        raise CodedError(f"a tensor of {len(shape)} dimensions.", mend="reshape it to 8 or fewer.")
    heads = [bytes([form | len(shape) << 2]), *(varint(extent) for extent in shape)]
    found: list[Plane] = []
    for part in parts:
        if isinstance(part, bytes):
            heads.append(part)
        elif isinstance(part, Plane):
            heads.append(part.head)
            found.append(part)
        else:
            heads += [part.start, *(each.head for each in part.planes)]
            found += part.planes
    return Record(b"".join(heads), tuple(coded for each in found for coded in each.coded))


def _byte_planes(values: Array) -> list[Array]:
    """Integers counted from the smallest of their type on, high bytes before low ones."""
    if not values.size:
        return []
    lowest = np.iinfo(values.dtype).min
    if values.itemsize == 1:
        return [(values.astype(np.int16) - lowest).astype(np.uint8)]
    shifted = values.astype(np.int32) - lowest
    return [(shifted >> place & 0xFF).astype(np.uint8) for place in (8, 0)]


def find_record(cursor: Cursor) -> Finish:
    """What makes the tensor whose record stands at the cursor, once the coded part is read up to there."""
    first = cursor.byte()
    form, dimensions = first & 3, first >> 2
    if form > _CODEBOOK or dimensions > MOST_DIMENSIONS:
        raise CodedError("the file is damaged.", mend="fetch it again.")
    shape = tuple(cursor.varint() for _ in range(dimensions))
    if math.prod(max(1, extent) for extent in shape) > _MOST_ELEMENTS:
        raise CodedError("the file is damaged.", mend="fetch it again.")
    if form == _RAW:
        found = find_array(cursor, shape)
        return lambda decoder: Raw(found.values(decoder))
    return _find_codebook(cursor, shape) if form == _CODEBOOK else _find_integers(cursor, shape)


def _find_codebook(cursor: Cursor, shape: tuple[int, ...]) -> Finish:
    centroids = find_array(cursor, (cursor.byte() + 1,), np.float32)
    found = _find_planes(cursor, shape, 1)

    def finish(decoder: Decoder) -> Stored:
        numbers = centroids.values(decoder)
        return Codebook(_values(found, shape, np.dtype(np.uint8), decoder), numbers)

    return finish


def _find_integers(cursor: Cursor, shape: tuple[int, ...]) -> Finish:
    flags, axis = cursor.byte(), cursor.byte() - 1
    if flags & 0x80:
        raise CodedError("the file is damaged.", mend="fetch it again.")
    steps = (cursor.varint() if axis >= 0 else 1,)
    scale = find_array(cursor, steps, np.float32)
    zeros = find_array(cursor, steps, np.int32) if flags & _SHIFTED else None
    bits, signed = (flags & 0xF) + 1, not flags & _UNSIGNED
    dtype = integer_type(bits, signed=signed)
    found = _find_planes(cursor, shape, dtype.itemsize)

    def finish(decoder: Decoder) -> Stored:
        numbers = scale.values(decoder)
        shifts = zeros.values(decoder) if zeros else np.zeros(0, np.int32)
        values = _values(found, shape, dtype, decoder)
        narrow = bool(flags & _NARROW)
        return Integers(values, numbers, shifts, axis if axis >= 0 else None, bits, signed, narrow)

    return finish


def _find_planes(cursor: Cursor, shape: tuple[int, ...], count: int) -> list[Found]:
    cursor.claim(_BYTES_AN_ELEMENT * count * math.prod(shape))
    return [find_plane(cursor, shape) for _ in range(count)] if math.prod(shape) else []


def _values(found: list[Found], shape: tuple[int, ...], dtype: np.dtype[Any], decoder: Decoder) -> Array:
    """The integers whose planes these are."""
    lowest = int(np.iinfo(dtype).min)
    if not found:
        return np.zeros(shape, dtype)
    if len(found) == 1:
        return np.asarray((found[0].values(decoder) ^ np.uint8(lowest & 0x80)).view(dtype))
    high, low = (each.values(decoder).astype(np.uint16) for each in found)
    return np.asarray((high << np.uint16(8) | low) ^ np.uint16(lowest & 0x8000)).view(dtype)


_LONGEST = 255
_ENDINGS = (b"", b".weight", b".bias")
_SHARED = 63


def name_bytes(name: str, before: str) -> bytes:
    """The name, given the one before it: how many bytes they share and a common ending, then the rest."""
    whole = name.encode()
    if b"\0" in whole:
        raise CodedError(f"the name {name!r} has a zero byte.", mend="leave it out.")
    if len(whole) > _LONGEST:
        raise CodedError(f"the name {name[:40]}... is longer than 255 bytes.", mend="shorten it.")
    ending = next(index for index in (1, 2, 0) if whole.endswith(_ENDINGS[index]))
    stem = whole.removesuffix(_ENDINGS[ending])
    pairs = zip(stem[:_SHARED], before.encode(), strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return bytes([shared << 2 | ending, len(stem) - shared]) + stem[shared:]


def read_name(cursor: Cursor, before: str) -> str:
    """The name at the cursor; raises CodedError where there is none."""
    shared, ending = divmod(cursor.byte(), 4)
    if ending == len(_ENDINGS) or shared > len(before.encode()):
        raise CodedError("a name in the file is damaged.", mend="fetch it again.")
    whole = before.encode()[:shared] + cursor.take(cursor.byte()) + _ENDINGS[ending]
    if len(whole) > _LONGEST or b"\0" in whole:
        raise CodedError("a name in the file is damaged.", mend="fetch it again.")
    try:
        return whole.decode()
    except UnicodeDecodeError:
        raise CodedError("a name in the file is damaged.", mend="fetch it again.") from None
