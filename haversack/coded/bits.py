"""Bits: whole numbers of varying length, written into bytes and read back; the first bit is the lowest of a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

_LONGEST_VARINT = 9
# So many values are unpacked at once: a multiple of 8, so that each part begins with a byte.
_PART = 1 << 20


def varint(value: int) -> bytes:
    """`value` from 0 up in groups of 7 bits, the lowest first; the top bit says that more follow (LEB128)."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def packed(values: Array, width: int) -> bytes:
    """Each of the uint8 `values` in `width` bits, from 0 to 8, one after the other."""
    bits = np.unpackbits(values.reshape(-1, 1), axis=1, bitorder="little")[:, :width]
    return np.packbits(bits, bitorder="little").tobytes()


def unpacked(content: bytes, width: int, count: int) -> Array:
    """The `count` uint8 values that `packed` wrote."""
    values = np.zeros(count, np.uint8)
    for begin in range(0, count if width else 0, _PART):
        part = values[begin : begin + _PART]
        packed_part = np.frombuffer(content, np.uint8, packed_bytes(width, len(part)), begin * width // 8)
        bits = np.unpackbits(packed_part, count=len(part) * width, bitorder="little")
        part[:] = np.packbits(bits.reshape(len(part), width), axis=1, bitorder="little")[:, 0]
    return values


def packed_bytes(width: int, count: int) -> int:
    """How many bytes `packed` writes."""
    return (width * count + 7) // 8


def width_of(count: int) -> int:
    """The bits that tell `count` different values apart."""
    return (count - 1).bit_length()


@dataclass
class BitWriter:
    """Collects numbers of few bits; `content` rounds up to whole bytes."""

    value: int = 0
    length: int = 0

    def put(self, value: int, width: int) -> None:
        """The `width` lowest bits of `value`."""
        self.value |= value << self.length
        self.length += width

    def put_golomb(self, value: int, order: int) -> None:
        """A number from 0 up in the exponential Golomb code of `order` (Teuhola 1978)."""
        shifted = value + (1 << order)
        extra = shifted.bit_length() - 1 - order
        self.put(1 << extra, extra + 1)
        self.put(shifted & ((1 << extra + order) - 1), extra + order)

    @property
    def content(self) -> bytes:
        """All bits so far."""
        return self.value.to_bytes((self.length + 7) // 8, "little")


def golomb_bits(values: Array, order: int | Array) -> Array:
    """How many bits `put_golomb` takes for each of `values`."""
    exponents = np.frexp(values + np.left_shift(1, order))[1] - 1
    return np.asarray(2 * exponents - order + 1)


@dataclass
class Cursor:
    """Reads a file's head from `at` to `end`; what it says may take `allowance` bytes of memory in all."""

    content: bytes
    at: int
    end: int
    allowance: int

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.end - self.at:
            raise CodedError("the file says that it holds more than it does.", mend="fetch it again.")
        self.at += count
        return self.content[self.at - count : self.at]

    def claim(self, count: int) -> None:
        """Raises CodedError when `count` more bytes of memory are more than allowed."""
        self.allowance -= count
        if self.allowance < 0:
            raise CodedError(
                "the file holds more numbers than it may.", mend="raise limit_bytes if you trust where it came from."
            )

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def varint(self) -> int:
        """The next number that `varint` wrote."""
        value = 0
        for index in range(_LONGEST_VARINT):
            group = self.byte()
            value |= (group & 0x7F) << 7 * index
            if group < 0x80:
                return value
        raise CodedError("the file holds a number of more than 63 bits.", mend="fetch it again.")


@dataclass
class BitReader:
    """Reads the numbers that a BitWriter wrote, from where the cursor stands; `close` moves it to the next byte."""

    cursor: Cursor
    byte: int = 0
    left: int = 0

    def bit(self) -> int:
        """The next bit."""
        if not self.left:
            self.byte, self.left = self.cursor.byte(), 8
        bit = self.byte & 1
        self.byte >>= 1
        self.left -= 1
        return bit

    def take(self, width: int) -> int:
        """The next number of `width` bits."""
        return sum(self.bit() << place for place in range(width))

    def golomb(self, order: int) -> int:
        """The next number that `put_golomb` wrote; one beyond 16 bits is an error."""
        extra = 0
        while not self.bit():
            extra += 1
            if extra > 16:
                raise CodedError("a frequency table of the file is damaged.", mend="fetch it again.")
        return (1 << extra + order) + self.take(extra + order) - (1 << order)
