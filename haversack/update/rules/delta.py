"""Delta: what turns a model's weights into its next version's, on the grid that both are on.

Integers that keep their grid differ by small integers, most of them 0, and those that pruning made zero stay so. So the
differences are coded with a table of their own where the old weight is zero, and classes of rows and columns elsewhere,
by the coder of the coded file. A decoder needs the old tensor's row and its place in the delta, and nothing behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from haversack.coded.bits import BitReader, BitWriter, Cursor, varint
from haversack.coded.classes import ONE, Classes, likeliest
from haversack.coded.container import lanes_for
from haversack.coded.rans import Coded, Decoder, Tables, encode
from haversack.coded.records import find_record, plain_record, record
from haversack.coded.tables import chosen, read_table
from haversack.coded.tensors import Codebook, Integers, Raw, Stored
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]
Finish = Callable[[Decoder], Stored]

MAGIC, VERSION = b"HSD", 1
_START = len(MAGIC) + 2
_SAME, _OTHER, _MOVED, _STEPPED = range(4)
_MIDDLE = 128
"""The symbol of no difference."""
# What an element and a table are charged.
_BYTES_AN_ELEMENT, _TABLE_BYTES = 16, 1 << 14
_EXPONENTS = range(-126, 100)


@dataclass(frozen=True, eq=False)
class Change:
    """How one tensor becomes its next version: what the head says of it, and what is coded."""

    head: bytes
    coded: tuple[Coded, ...] = ()

    @property
    def bytes_written(self) -> float:
        """Its share of the delta."""
        return len(self.head) + sum(each.bits for each in self.coded) / 8


def write(old: Mapping[str, Stored], new: Mapping[str, Stored]) -> bytes:
    """What `read` makes `new` of, given `old`; raises CodedError unless both have the same names in one order."""
    if list(old) != list(new):
        raise CodedError("the two have other tensors.", mend="send the whole file.")
    changes = [_change(old[name], new[name]) for name in new]
    coded = [each for change in changes for each in change.coded]
    lanes = lanes_for(coded)
    heads = b"".join(change.head for change in changes)
    words = encode(coded, lanes) if lanes else b""
    return MAGIC + bytes([VERSION, lanes]) + varint(len(new)) + heads + words


def read(old: Mapping[str, Stored], content: bytes, *, limit_bytes: int) -> dict[str, Stored]:
    """The tensors that `write` had, given the same `old`.

    Raises CodedError for what is no delta, of another version, damaged, of other tensors, or asks for more memory than
    `limit_bytes`. That the tensors are the right ones, only their digest tells.
    """
    if content[: len(MAGIC)] != MAGIC or len(content) < _START:
        raise CodedError("this is no delta.", mend="fetch it again.")
    if content[len(MAGIC)] != VERSION:
        raise CodedError(
            f"the delta has version {content[len(MAGIC)]} of its format, and this is {VERSION}.",
            mend="read it with a newer haversack.",
        )
    cursor = Cursor(content, _START, len(content), limit_bytes)
    if cursor.varint() != len(old):
        raise CodedError("the delta is of another model.", mend="fetch the whole file.")
    found = {name: _find(cursor, tensor) for name, tensor in old.items()}
    decoder = Decoder(content[cursor.at :], content[_START - 1])
    new = {name: found.pop(name)(decoder) for name in list(found)}
    decoder.close()
    return new


def _change(old: Stored, new: Stored) -> Change:
    """The shortest way from one tensor to the other."""
    if plain_record(old).head == plain_record(new).head:
        return Change(bytes([_SAME]))
    made = record(new)
    ways = [Change(bytes([_OTHER]) + made.head, made.coded)]
    if _on_one_grid(old, new):
        ways.append(_differences(bytes([_MOVED]), old, _bytes_of(new) - _bytes_of(old)))
    exponent = _exponent(old, new)
    if exponent is not None:
        steps = np.atleast_1d(_steps(old.real, new.real, exponent)).astype(np.int8)
        ways.append(_differences(bytes([_STEPPED, exponent & 0xFF]), old, steps.view(np.uint8)))
    return min(ways, key=lambda each: each.bytes_written)


def _on_one_grid(old: Stored, new: Stored) -> bool:
    """Whether nothing but integers of 8 bits, or indices into one codebook, differs."""
    return _movable(old) and _movable(new) and _grid(old) == _grid(new)


def _movable(tensor: Stored) -> bool:
    if isinstance(tensor, Integers):
        return tensor.values.itemsize == 1 and tensor.values.size > 0
    return isinstance(tensor, Codebook) and tensor.indices.size > 0


def _grid(tensor: Stored) -> bytes:
    """All of a tensor but its integers or indices."""
    if isinstance(tensor, Integers):
        tensor = replace(tensor, values=np.zeros_like(tensor.values))
    elif isinstance(tensor, Codebook):
        tensor = replace(tensor, indices=np.zeros_like(tensor.indices))
    return plain_record(tensor).head


def _bytes_of(tensor: Stored) -> Array:
    """The integers or indices, uint8 of one dimension or more, so that differences wrap."""
    if isinstance(tensor, Integers):
        return np.atleast_1d(tensor.values).view(np.uint8)
    return np.atleast_1d(tensor.indices) if isinstance(tensor, Codebook) else np.zeros(0, np.uint8)


def _exponent(old: Stored, new: Stored) -> int | None:
    """The largest e for which each new real number is the old one and up to 127 steps of 2^e, rounded, or None."""
    if not (_is_real(old) and _is_real(new)) or old.shape != new.shape or not old.real.size:
        return None
    with np.errstate(invalid="ignore"):
        most = float(np.abs(new.real.astype(np.float64) - old.real).max())
    if not 0 < most < np.inf:
        return None
    least = int(np.ceil(np.log2(most / 127.5)))
    tried = (each for each in range(least + 7, least - 1, -1) if each in _EXPONENTS)
    return next((each for each in tried if _fits(old.real, new.real, each)), None)


def _fits(old: Array, new: Array, exponent: int) -> bool:
    steps = _steps(old, new, exponent)
    return bool((np.abs(steps) < _MIDDLE).all()) and _stepped(old, steps, exponent).tobytes() == new.tobytes()


def _steps(old: Array, new: Array, exponent: int) -> Array:
    return np.asarray(np.rint(np.ldexp(new.astype(np.float64) - old, -exponent)))


def _stepped(old: Array, steps: Array, exponent: int) -> Array:
    """Real numbers after so many steps of 2^exponent, float32: one rounding each."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(old + np.ldexp(steps.astype(np.float32), exponent))


def _is_real(tensor: Stored) -> bool:
    return isinstance(tensor, Raw) and tensor.values.dtype == np.float32


def _differences(start: bytes, old: Stored, moved: Array) -> Change:
    """Differences, uint8 that wrap, in the fewest bytes."""
    symbols = moved + np.uint8(_MIDDLE)
    low, high = int(symbols.min()), int(symbols.max())
    ends = bytes([low, high - low])
    symbols -= np.uint8(low)
    count, still = high - low + 1, _still(old)
    ways = (
        _classed(start + ends, symbols, count, still, classes)
        for classes in {id(each): each for each in (ONE, likeliest(symbols, count))}.values()
    )
    return min(ways, key=lambda each: each.bytes_written)


def _classed(start: bytes, symbols: Array, count: int, still: Array, classes: Classes) -> Change:
    which = _which(still, classes)
    places = which.astype(np.intp) * count + symbols.ravel()
    counts = np.bincount(places, minlength=(1 + classes.tables) * count).reshape(-1, count)
    writer = BitWriter()
    tables = [chosen(each)[0] for each in counts]
    for table in tables:
        table.write(writer)
    head = bytes([classes.row_bits | classes.column_bits << 2]) + classes.content + writer.content
    frequencies = Tables(np.stack([table.frequencies for table in tables]))
    return Change(start + head, (Coded(symbols.ravel(), frequencies, which),))


def _still(old: Stored) -> Array:
    """Where a tensor is zero, whatever its step is."""
    if isinstance(old, Integers):
        old = replace(old, scale=np.ones_like(old.scale))
    return np.atleast_1d(old.real == 0)


def _which(still: Array, classes: Classes) -> Array:
    """The table of each element, flattened: the first where the old weight is zero, else by its classes."""
    others = classes.of_each(still.shape)
    return np.where(still.ravel(), np.uint8(0), np.uint8(1) + (np.uint8(0) if others is None else others))


def _find(cursor: Cursor, old: Stored) -> Finish:
    """What makes the tensor whose change stands at the cursor."""
    way = cursor.byte()
    if way == _SAME:
        return lambda decoder: old  # noqa: ARG005 - what other changes need
    if way == _OTHER:
        return find_record(cursor)
    if way == _STEPPED:
        exponent = int(np.int8(np.uint8(cursor.byte())))
        moved = _find_differences(cursor, old)
        if not _is_real(old) or exponent not in _EXPONENTS:
            raise _damaged()
        return lambda decoder: Raw(_stepped(old.real, moved(decoder).view(np.int8), exponent))
    if way != _MOVED or not _movable(old):
        raise _damaged()
    differences = _find_differences(cursor, old)
    return lambda decoder: _moved(old, differences(decoder))


def _moved(old: Stored, differences: Array) -> Stored:
    values = (_bytes_of(old) + differences).reshape(old.shape)
    if isinstance(old, Integers):
        return replace(old, values=values.view(old.values.dtype))
    return replace(old, indices=values) if isinstance(old, Codebook) else old


def _find_differences(cursor: Cursor, old: Stored) -> Callable[[Decoder], Array]:
    size = math.prod(old.shape)
    cursor.claim(_BYTES_AN_ELEMENT * size)
    low, count, mode = cursor.byte(), cursor.byte() + 1, cursor.byte()
    if low + count > 256 or mode >> 4 or not size:
        raise _damaged()
    classes = Classes.read(cursor, mode & 3, mode >> 2, old.shape)
    cursor.claim(_TABLE_BYTES * (1 + classes.tables))
    reader = BitReader(cursor)
    tables = Tables(np.stack([read_table(reader, count) for _ in range(1 + classes.tables)]))

    def differences(decoder: Decoder) -> Array:
        symbols = decoder.symbols(size, tables, _which(_still(old), classes))
        return (symbols + np.uint8(low) - np.uint8(_MIDDLE)).reshape(old.shape)

    return differences


def _damaged() -> CodedError:
    return CodedError("the delta is damaged.", mend="fetch it again.")
