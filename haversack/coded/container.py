"""The container: a network's weights by name in one file, each in the fewest bytes that give it back to the bit.

docs/format.md has the format byte by byte.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from haversack.coded.bits import Cursor, varint
from haversack.coded.rans import Coded, Decoder, encode
from haversack.coded.records import Record, find_record, name_bytes, plain_record, read_name, record
from haversack.coded.tensors import Codebook, Raw, Stored, alike
from haversack.errors import CodedError
from haversack.untrusted import read_file

Array = np.ndarray[Any, Any]

MAGIC, VERSION = b"HSC", 1
LIMIT_BYTES, LIMIT_TIMES = 1 << 28, 32
"""How much memory a file may take when nothing else is said: 256 MiB, or 32 times its own size if that is more."""
MOST_BYTES = 1 << 28
"""No network for a small device has more weights than fit a file of that size."""
_START = len(MAGIC) + 2
_CRC = 4
_RECORD_BYTES = 2048
"""What a tensor takes besides its values, however few they are."""
# Lanes make numpy fast, and each costs 3 bytes; a short coded part is read in one.
_LANES, _WORTH_LANES = 64, 1 << 17


def stored(values: Array) -> Stored:
    """The shorter exact form of `values`: a codebook where there are few different float32 numbers, else raw."""
    values = np.asarray(values)
    if values.dtype != np.float32 or values.size < 2:
        return Raw(values)
    patterns, indices = np.unique(values.view(np.uint32), return_inverse=True)
    if len(patterns) > min(256, values.size // 2):
        return Raw(values)
    book = Codebook(indices.reshape(values.shape), patterns.view(np.float32))
    raw = Raw(values)
    return book if record(book).bytes_written < record(raw).bytes_written else raw


def write(tensors: Mapping[str, Stored]) -> bytes:
    """The file that `read` gives the tensors back from, in their order.

    Raises CodedError for a name of more than 255 bytes or a tensor of more than 8 dimensions.
    """
    heads, coded = _heads(tensors, record)
    lanes = lanes_for(coded)
    return _whole(lanes, heads, encode(coded, lanes) if lanes else b"")


def plain(tensors: Mapping[str, Stored]) -> bytes:
    """The file of the same tensors in which nothing is coded.

    There is one for them, whatever `write` chooses, so that its digest says which weights they are.
    """
    return _whole(0, _heads(tensors, plain_record)[0], b"")


def lanes_for(coded: Sequence[Coded]) -> int:
    """How many lanes a coded part of these planes is worth; none where nothing is coded."""
    return 0 if not coded else 1 if sum(each.bits for each in coded) / 8 < _WORTH_LANES else _LANES


def _heads(tensors: Mapping[str, Stored], recorded: Callable[[Stored], Record]) -> tuple[bytes, list[Coded]]:
    parts = [varint(len(tensors))]
    coded: list[Coded] = []
    before = ""
    for name, tensor in tensors.items():
        made = recorded(tensor)
        parts += [name_bytes(name, before), made.head]
        coded += made.coded
        before = name
    return b"".join(parts), coded


def _whole(lanes: int, heads: bytes, words: bytes) -> bytes:
    content = MAGIC + bytes([VERSION, lanes]) + heads + words
    return content + zlib.crc32(content).to_bytes(_CRC, "little")


def read(content: bytes, *, limit_bytes: int | None = None) -> dict[str, Stored]:
    """The tensors that `write` wrote, in their order and to the bit.

    No tensor is allocated before all that the file asks for adds up to at most `limit_bytes`: the tensors as the real
    numbers that they stand for, and what it takes to decode them. Raises CodedError for a file that is damaged, cut
    off, something else, written by a newer version, or larger than that.
    """
    _check_whole(content)
    if limit_bytes is None:
        limit_bytes = max(LIMIT_BYTES, LIMIT_TIMES * len(content))
    cursor = Cursor(content, _START, len(content) - _CRC, limit_bytes)
    found: dict[str, Callable[[Decoder], Stored]] = {}
    name = ""
    for _ in range(cursor.varint()):
        cursor.claim(_RECORD_BYTES)
        name = read_name(cursor, name)
        if name in found:
            raise CodedError(f"the file holds {name} twice.", mend="fetch it again.")
        found[name] = find_record(cursor)
    decoder = Decoder(content[cursor.at : cursor.end], content[_START - 1])
    # What a tensor needs to be decoded goes before the next one's.
    tensors = {name: found.pop(name)(decoder) for name in list(found)}
    decoder.close()
    return tensors


@dataclass(frozen=True, eq=False)
class CodedFile:
    """A coded file that was read: its bytes, and the tensors that they hold, by name."""

    content: bytes
    tensors: Mapping[str, Stored]

    @classmethod
    def of(cls, content: bytes, where: str) -> CodedFile:
        """The file of that content; raises CodedError, which says `where`, as `read` does."""
        try:
            return cls(content, read(content))
        except CodedError as error:
            raise CodedError(error.what, mend=error.mend, where=where) from error

    @classmethod
    def at(cls, path: Path) -> CodedFile:
        """The file at `path`; raises UntrustedError for what is none or too large, and CodedError as `read` does."""
        return cls.of(read_file(path, MOST_BYTES), str(path))

    @property
    def sha256(self) -> str:
        """Which file it is: equal for equal bytes alone, and so for one way of coding its tensors."""
        return hashlib.sha256(self.content).hexdigest()

    def differing(self, other: CodedFile) -> list[str]:
        """The tensors that one of the files lacks, or holds otherwise; none where devices compute with the same."""
        both = self.tensors.keys() & other.tensors.keys()
        unlike = {name for name in both if not alike(self.tensors[name], other.tensors[name])}
        return sorted(unlike | (self.tensors.keys() ^ other.tensors.keys()))


def _check_whole(content: bytes) -> None:
    """Raises CodedError for another file's bytes, another version's, and damaged ones."""
    if content[: len(MAGIC)] != MAGIC:
        raise CodedError("this is no file of coded weights.", mend="name one that haversack wrote.")
    if content[len(MAGIC) : len(MAGIC) + 1] > bytes([VERSION]):
        raise CodedError(
            f"the file has version {content[len(MAGIC)]} of the format, and this is {VERSION}.",
            mend="read it with a newer haversack.",
        )
    if (
        len(content) < _START + 1 + _CRC
        or zlib.crc32(memoryview(content)[:-_CRC]).to_bytes(_CRC, "little") != content[-_CRC:]
    ):
        raise CodedError("the file is damaged or cut off: its checksum differs.", mend="fetch it again.")
