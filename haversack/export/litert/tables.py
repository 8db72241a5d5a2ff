"""Tables: a flatbuffer in which nothing stands twice."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import flatbuffers
import numpy as np

from haversack.export.litert.schema import BUFFER_ALIGNMENT, IDENTIFIER

Array = np.ndarray[Any, Any]
Slot = tuple[int, str, Any, Any]


class Tables:
    """Builds a flatbuffer from its leaves up; what equals something written before is that, at no further bytes.

    Every method returns an offset, which other tables refer to by a slot of the kind "UOffsetTRelative".
    """

    def __init__(self, expected_bytes: int) -> None:
        self._builder = flatbuffers.Builder(expected_bytes)
        self._written: dict[Hashable, int] = {}

    def table(self, *slots: Slot) -> int:
        """A table of (slot number, kind of number, value, the schema's default); defaults take no bytes."""
        if slots in self._written:
            return self._written[slots]
        builder = self._builder
        builder.StartObject(max((slot for slot, *_ in slots), default=-1) + 1)
        for slot, kind, value, default in slots:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, default)
        return self._written.setdefault(slots, builder.EndObject())

    def numbers(self, values: Sequence[float] | Array, dtype: str, *, alignment: int = 1) -> int:
        """A vector of numbers, little-endian."""
        array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).reshape(-1)
        key = (array.tobytes(), dtype, alignment)
        if key in self._written:
            return self._written[key]
        self._builder.Prep(alignment, array.nbytes)
        return self._written.setdefault(key, self._builder.CreateNumpyVector(array))

    def buffer(self, data: Array) -> int:
        """A vector of the array's bytes that starts where runtimes want to find weights."""
        return self.numbers(data.reshape(-1).view(np.uint8), "uint8", alignment=BUFFER_ALIGNMENT)

    def offsets(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        builder = self._builder
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def text(self, text: str) -> int:
        """A string."""
        return int(self._builder.CreateSharedString(text))

    def finish(self, root: int) -> bytes:
        """The file."""
        self._builder.Finish(root, IDENTIFIER)
        return bytes(self._builder.Output())
