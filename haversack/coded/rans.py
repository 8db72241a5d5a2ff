"""rANS: symbols in as many bits as their frequencies say, over whole numbers only (Duda 2013).

A state of 32 bits at least 2^16, frequencies that add up to 2^14, words of 16 bits (Giesen 2014: at most one word a
symbol, and lanes whose words share one stream). Words are written last symbol first, and read from the end of the file
towards its front. All planes of a file go through the same lanes one after the other, so that a plane costs no bytes of
its own; symbol i of a plane is in lane i modulo the number of lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

PRECISION = 14
TOTAL = 1 << PRECISION
LOWEST = 1 << 16
MOST_LANES = 64
_SLOT = TOTAL - 1
# A state that is not below frequency << 18 would leave 32 bits.
_FULL = 32 - PRECISION


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequencies of K tables of n symbols, int64 (K, n); each row adds up to 2^14."""

    frequencies: Array

    @property
    def starts(self) -> Array:
        """Where each symbol's slots begin, like `frequencies`."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @property
    def symbols(self) -> Array:
        """The symbol of each slot, uint8 (K, 2^14)."""
        names = np.arange(self.frequencies.shape[1], dtype=np.uint8)
        return np.stack([np.repeat(names, row) for row in self.frequencies])


@dataclass(frozen=True, eq=False)
class Coded:
    """Symbols, uint8, and the table of each: an index of `tables` like `symbols`, or one for all."""

    symbols: Array
    tables: Tables
    which: Array | None = None

    @property
    def bits(self) -> float:
        """The length that the frequencies promise."""
        return float((PRECISION - np.log2(self.tables.frequencies.ravel()[self.places])).sum())

    @property
    def places(self) -> Array:
        """Where in the flattened tables each symbol is."""
        if self.which is None:
            return self.symbols.astype(np.intp)
        return self.which.astype(np.intp) * self.tables.frequencies.shape[1] + self.symbols


def encode(planes: Sequence[Coded], lanes: int) -> bytes:
    """The words that `Decoder` gives the symbols of `planes` back from."""
    if lanes == 1:
        return _encode_in_one(planes)
    states = np.full(lanes, LOWEST, np.uint64)
    words: list[Array] = []
    for plane in reversed(planes):
        places = plane.places
        frequencies = plane.tables.frequencies.ravel().astype(np.uint64)[places]
        starts = plane.tables.starts.ravel().astype(np.uint64)[places]
        for begin in range((len(places) - 1) // lanes * lanes, -1, -lanes):
            part = slice(begin, begin + lanes)
            _push(states[: len(frequencies[part])], frequencies[part], starts[part], words)
    words.append(_as_words(states)[::-1])
    return np.concatenate(words).astype("<u2").tobytes()


def _push(states: Array, frequencies: Array, starts: Array, words: list[Array]) -> None:
    """One symbol onto each of `states`, in place; what overflows goes to `words`, last lane first."""
    full = states >= frequencies << np.uint64(_FULL)
    words.append((states[full] & np.uint64(0xFFFF))[::-1])
    states[full] >>= np.uint64(16)
    quotients, rests = np.divmod(states, frequencies)
    states[:] = (quotients << np.uint64(PRECISION)) + rests + starts


def _as_words(states: Array) -> Array:
    """High word and low word of each state."""
    return np.stack([states >> np.uint64(16), states & np.uint64(0xFFFF)], 1).ravel()


def _encode_in_one(planes: Sequence[Coded]) -> bytes:
    state, words = LOWEST, []
    for plane in reversed(planes):
        places = plane.places[::-1]
        frequencies = plane.tables.frequencies.ravel()[places].tolist()
        starts = plane.tables.starts.ravel()[places].tolist()
        for frequency, start in zip(frequencies, starts, strict=True):
            if state >= frequency << _FULL:
                words.append(state & 0xFFFF)
                state >>= 16
            state = (state // frequency << PRECISION) + state % frequency + start
    words += [state & 0xFFFF, state >> 16]
    return np.array(words, "<u2").tobytes()


class Decoder:
    """Gives symbols back, plane by plane in the order in which `encode` had them.

    `content` is what `encode` wrote. Raises CodedError where it cannot be that.
    """

    def __init__(self, content: bytes, lanes: int) -> None:
        if len(content) % 2:
            raise CodedError("the file's coded part is cut off.", mend="fetch it again.")
        self.words = np.frombuffer(content, "<u2")[::-1]
        if lanes > MOST_LANES or len(self.words) < 2 * lanes:
            raise CodedError("the file's coded part is cut off.", mend="fetch it again.")
        self.at = 2 * lanes
        heads = self.words[: self.at].astype(np.uint64).reshape(lanes, 2)
        self.states = heads[:, 0] << np.uint64(16) | heads[:, 1]

    def symbols(self, count: int, tables: Tables, which: Array | None = None) -> Array:
        """The next `count` symbols, uint8, each by its table."""
        if not len(self.states):
            raise CodedError("the file has no coded part, though something is coded.", mend="fetch it again.")
        found = np.empty(count, np.uint8)
        if len(self.states) == 1:
            self._read_in_one(found, tables, which)
        else:
            self._read(found, tables, which)
        return found

    def close(self) -> None:
        """Raises CodedError unless every word was read and every lane is back where it began."""
        if self.at != len(self.words) or (self.states != LOWEST).any():
            raise CodedError("the file's coded part does not end where it should.", mend="fetch it again.")

    def _read(self, found: Array, tables: Tables, which: Array | None) -> None:
        width, lanes = tables.frequencies.shape[1], len(self.states)
        symbols = tables.symbols.ravel()
        frequencies, starts = (each.ravel().astype(np.uint64) for each in (tables.frequencies, tables.starts))
        words, at = self.words.astype(np.uint64), self.at
        for begin in range(0, len(found), lanes):
            part = slice(begin, begin + lanes)
            states = self.states[: len(found[part])]
            slots = states & np.uint64(_SLOT)
            if which is None:
                places = symbols[slots]
                found[part] = places
            else:
                rows = which[part].astype(np.intp)
                found[part] = symbols[rows * TOTAL + slots.astype(np.intp)]
                places = rows * width + found[part]
            states[:] = frequencies[places] * (states >> np.uint64(PRECISION)) + slots - starts[places]
            low = (states < LOWEST).nonzero()[0]
            fetched = words[at : at + len(low)]
            if len(fetched) < len(low):
                raise CodedError("the file's coded part is cut off.", mend="fetch it again.")
            states[low] = states[low] << np.uint64(16) | fetched
            at += len(low)
        self.at = at

    def _read_in_one(self, found: Array, tables: Tables, which: Array | None) -> None:
        symbols, frequencies, starts = (each.tolist() for each in (tables.symbols, tables.frequencies, tables.starts))
        rows = [0] * len(found) if which is None else which.tolist()
        words, at, state = self.words.tolist(), self.at, int(self.states[0])
        result = bytearray(len(found))
        try:
            for index, row in enumerate(rows):
                slot = state & _SLOT
                symbol = result[index] = symbols[row][slot]
                state = frequencies[row][symbol] * (state >> PRECISION) + slot - starts[row][symbol]
                if state < LOWEST:
                    state = state << 16 | words[at]
                    at += 1
        except IndexError:
            raise CodedError("the file's coded part is cut off.", mend="fetch it again.") from None
        found[:] = np.frombuffer(result, np.uint8)
        self.at, self.states = at, np.array([state], np.uint64)
