"""Flat: flatbuffers of unknown origin, read by hand.

No byte is looked at that is not there, and nothing runs in a circle, since a reader only asks for tables that it knows.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from haversack.errors import UntrustedError

Array = np.ndarray[Any, Any]
_MOST_ENTRIES = 1 << 16
_MOST_NUMBERS = 1 << 20
"""In vectors of shapes, steps and places, all together: weights are not among them."""
_MOST_CHARACTERS = 1 << 10


class FlatBytes:
    """The bytes of a flatbuffer."""

    def __init__(self, content: bytes) -> None:
        self.content, self._left = content, _MOST_NUMBERS

    def root(self) -> FlatTable:
        """The table that all others hang on."""
        return FlatTable(self, self.number("<I", 0))

    def number(self, kind: str, place: int) -> Any:  # noqa: ANN401 - whole or real, as `kind` says
        """One number, in the notation of `struct`."""
        if not 0 <= place <= len(self.content) - struct.calcsize(kind):
            raise damaged()
        return struct.unpack_from(kind, self.content, place)[0]

    def vector(self, place: int, dtype: str) -> Array:
        """The numbers that stand behind their count, as they lie in the file."""
        count = self.number("<I", place)
        if count * np.dtype(dtype).itemsize > len(self.content) - place - 4:
            raise damaged()
        return np.frombuffer(self.content, dtype, count, place + 4)

    def spend(self, numbers: int) -> None:
        """Counts numbers that become Python's, of which a vector that many tables share would give too many."""
        self._left -= numbers
        if self._left < 0:
            raise UntrustedError(f"it holds more than {_MOST_NUMBERS:,} numbers beside its weights.")


class FlatTable:
    """One table; what stands in none of its slots is a default, an empty vector or None."""

    def __init__(self, file: FlatBytes, place: int) -> None:
        self._file, self.place = file, place
        self._slots = place - file.number("<i", place)
        self._size = file.number("<H", self._slots)

    def number(self, slot: int, kind: str, default: float = 0) -> Any:  # noqa: ANN401 - whole or real, as `kind` says
        """The number in a slot."""
        place = self._slot(slot)
        return self._file.number(kind, place) if place else default

    def table(self, slot: int) -> FlatTable | None:
        """The table in a slot."""
        place = self._reference(slot)
        return FlatTable(self._file, place) if place else None

    def tables(self, slot: int) -> list[FlatTable]:
        """The vector of tables in a slot."""
        place = self._reference(slot)
        offsets = self._file.vector(place, "<u4") if place else np.zeros(0, "<u4")
        if offsets.size > _MOST_ENTRIES:
            raise UntrustedError(f"it holds more than {_MOST_ENTRIES:,} tables of one kind.")
        self._file.spend(offsets.size)
        starts = range(place + 4, place + 4 + 4 * offsets.size, 4)
        return [FlatTable(self._file, start + int(offset)) for start, offset in zip(starts, offsets, strict=True)]

    def bytes_of(self, slot: int) -> Array:
        """The bytes in a slot, not copied."""
        place = self._reference(slot)
        return self._file.vector(place, "u1") if place else np.zeros(0, "u1")

    def numbers(self, slot: int, dtype: str) -> list[Any]:
        """The vector of numbers in a slot."""
        place = self._reference(slot)
        if not place:
            return []
        vector = self._file.vector(place, dtype)
        self._file.spend(vector.size)
        numbers: list[Any] = vector.tolist()
        return numbers

    def text(self, slot: int) -> str:
        """The text in a slot; "" where it is longer than any name."""
        place = self._reference(slot)
        letters = self._file.vector(place, "u1") if place else np.zeros(0, "u1")
        return letters.tobytes().decode(errors="replace") if letters.size <= _MOST_CHARACTERS else ""

    def _slot(self, slot: int) -> int:
        """Where a slot's number stands; 0 where the slot is empty."""
        behind = 4 + 2 * slot
        offset = self._file.number("<H", self._slots + behind) if behind + 2 <= self._size else 0
        return self.place + int(offset) if offset else 0

    def _reference(self, slot: int) -> int:
        place = self._slot(slot)
        return place + int(self._file.number("<I", place)) if place else 0


def damaged() -> UntrustedError:
    """The error of a file that refers to what it does not have."""
    return UntrustedError("this is not a .tflite file, or it is damaged.", mend="give a .tflite model.")
