"""Tables: a flatbuffer in which nothing stands twice.

A flatbuffer grows from its end to its beginning, and the library copies it whole when it is finished. Large weights
stand behind all tables here: they are only looked at until they are streamed into the file, one after the other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable, Sequence
from typing import Any

import flatbuffers
import numpy as np

from haversack.export.litert.schema import BUFFER_ALIGNMENT, IDENTIFIER

Array = np.ndarray[Any, Any]
Slot = tuple[int, str, Any, Any]
_EXPECTED_BYTES = _LARGE_BYTES = 1 << 16
_LENGTH = np.dtype("<u4")


class Tables:
    """Builds a flatbuffer from its leaves up; what equals something written before is that, at no further bytes.

    Every method returns an offset, which other tables refer to by a slot of the kind "UOffsetTRelative".
    """

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(_EXPECTED_BYTES)
        self._written: dict[Hashable, int] = {}
        self._behind: list[tuple[int, Array]] = []
        self._end = 0

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
        """A vector of the array's bytes that starts where runtimes want to find weights.

        The array must stay as it is until the file is finished.
        """
        if data.nbytes < _LARGE_BYTES:
            # Among the tables, which fill what alignment leaves empty.
            return self.numbers(data.reshape(-1).view(np.uint8), "uint8", alignment=BUFFER_ALIGNMENT)
        key = (hashlib.sha256(np.ascontiguousarray(data).data).digest(), data.nbytes)
        if key in self._written:
            return self._written[key]
        start = _aligned(self._end + _LENGTH.itemsize)
        self._behind.append((start, data))
        self._end = start + data.nbytes
        # Tables are as far apart as their offsets say, which count from the end of the last table: what is behind that
        # end has a negative one.
        return self._written.setdefault(key, _LENGTH.itemsize - start)

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
        self._builder.minalign = BUFFER_ALIGNMENT
        self._builder.Finish(root, IDENTIFIER)
        stream = io.BytesIO()
        before = stream.write(self._builder.Output())
        for start, data in self._behind:
            stream.write(bytes(before + start - _LENGTH.itemsize - stream.tell()))
            stream.write(_LENGTH.type(data.nbytes).tobytes())
            stream.write(np.ascontiguousarray(data).data)
        return stream.getvalue()


def _aligned(place: int) -> int:
    return -(-place // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT
