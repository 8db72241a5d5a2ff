"""rANS: symbols in as many bits as their frequencies say, over whole numbers only (Duda 2013).

A state of 32 bits at least 2^16, frequencies that add up to 2^14, words of 16 bits (Giesen 2014: at most one word a
symbol, and lanes whose words share one stream). Words are written last symbol first, and read from the end of the file
towards its front. All planes of a file go through the same lanes one after the other, so that a plane costs no bytes of
its own; symbol i of a plane is in lane i modulo the number of lanes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

PRECISION = 14
TOTAL = 1 << PRECISION
LOWEST = 1 << 16
MOST_LANES = 64
# A state that is not below frequency << 18 would leave 32 bits.
_FULL, _SHIFT, _SLOT, _WORD, _LOWEST = map(np.uint64, (32 - PRECISION, PRECISION, TOTAL - 1, 16, LOWEST))
# Symbols between looking up what they need.
_PART = 1 << 18
# From so many symbols a table on, what each of its 2^14 slots stands for is worth writing out.
_WORTH_SLOTS = 1024


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequencies of K tables of n symbols, int64 (K, n); each row adds up to 2^14."""

    frequencies: Array

    @property
    def starts(self) -> Array:
        """Where each symbol's slots begin, like `frequencies`."""
        return np.cumsum(self.frequencies, axis=1) - self.frequencies

    @cached_property
    def symbols(self) -> Array:
        """The symbol of each slot, uint8 (K, 2^14)."""
        names = np.arange(self.frequencies.shape[1], dtype=np.uint8)
        return np.stack([np.repeat(names, row) for row in self.frequencies])

    @cached_property
    def factors(self) -> Array:
        """The frequency of each slot's symbol, uint64, flattened."""
        frequencies = self.frequencies.astype(np.uint64)
        return np.asarray(np.take_along_axis(frequencies, self.symbols.astype(np.intp), 1).ravel())

    @cached_property
    def offsets(self) -> Array:
        """Each slot's distance from its symbol's start, uint64, flattened."""
        starts = np.take_along_axis(self.starts, self.symbols.astype(np.intp), 1)
        return np.asarray((np.arange(TOTAL) - starts).astype(np.uint64).ravel())

    @cached_property
    def listed(self) -> tuple[list[int], list[int]]:
        """`factors` and `offsets` as lists, which plain Python reads faster."""
        return self.factors.tolist(), self.offsets.tolist()


@dataclass(frozen=True, eq=False)
class Coded:
    """Symbols, uint8, and the table of each: an index of `tables` like `symbols`, or one for all."""

    symbols: Array
    tables: Tables
    which: Array | None = None

    @property
    def bits(self) -> float:
        """The length that the frequencies promise."""
        width = self.tables.frequencies.shape[1]
        counts = np.bincount(self.places(slice(None)), minlength=len(self.tables.frequencies) * width)
        present = counts.nonzero()[0]
        return float((counts[present] * (PRECISION - np.log2(self.tables.frequencies.ravel()[present]))).sum())

    def places(self, part: slice) -> Array:
        """Where in the flattened tables the symbols of that part are."""
        symbols = self.symbols[part].astype(np.intp)
        if self.which is None:
            return symbols
        return np.asarray(symbols + self.which[part].astype(np.intp) * self.tables.frequencies.shape[1])


def encode(planes: Sequence[Coded], lanes: int) -> bytes:
    """The words that `Decoder` gives the symbols of `planes` back from."""
    parts = (part for each in reversed(planes) for part in _backwards(each, lanes))
    return _encode_in_one(parts) if lanes == 1 else _encode(parts, lanes)


def _backwards(plane: Coded, lanes: int) -> Iterator[tuple[Array, Array]]:
    """Frequencies and starts of the plane's symbols, uint64, in parts whose last comes first."""
    frequencies, starts = (each.ravel().astype(np.uint64) for each in (plane.tables.frequencies, plane.tables.starts))
    step = _PART // lanes * lanes
    for begin in range((plane.symbols.size - 1) // step * step, -1, -step):
        places = plane.places(slice(begin, begin + step))
        yield frequencies[places], starts[places]


def _encode(parts: Iterable[tuple[Array, Array]], lanes: int) -> bytes:
    whole = np.full(lanes, LOWEST, np.uint64)
    words: list[Array] = []
    for frequencies, starts in parts:
        limits, gaps = frequencies << _FULL, np.uint64(TOTAL) - frequencies
        for begin in range((len(starts) - 1) // lanes * lanes, -1, -lanes):
            part = slice(begin, begin + lanes)
            states = whole[: len(starts[part])]
            full = (states >= limits[part]).nonzero()[0]
            words.append(states[full[::-1]])
            states[full] >>= _WORD
            states += states // frequencies[part] * gaps[part] + starts[part]
    words.append(np.stack([whole >> _WORD, whole], 1).ravel()[::-1])
    return (np.concatenate(words) & np.uint64(0xFFFF)).astype("<u2").tobytes()


def _encode_in_one(parts: Iterable[tuple[Array, Array]]) -> bytes:
    state, words = LOWEST, []
    for frequencies, starts in parts:
        for frequency, start in zip(frequencies[::-1].tolist(), starts[::-1].tolist(), strict=True):
            if state >= frequency << 32 - PRECISION:
                words.append(state & 0xFFFF)
                state >>= 16
            state += state // frequency * (TOTAL - frequency) + start
    words += [state & 0xFFFF, state >> 16]
    return np.array(words, "<u2").tobytes()


class Decoder:
    """Gives symbols back, plane by plane in the order in which `encode` had them.

    `content` is what `encode` wrote. Raises CodedError where it cannot be that.
    """

    def __init__(self, content: bytes, lanes: int) -> None:
        if len(content) % 2 or lanes > MOST_LANES or len(content) < 4 * lanes:
            raise _cut_off()
        self.words = np.frombuffer(content, "<u2")[::-1].astype(np.uint64)
        self.at = 2 * lanes
        heads = self.words[: self.at].reshape(lanes, 2)
        self.states = heads[:, 0] << _WORD | heads[:, 1]

    def symbols(self, count: int, tables: Tables, which: Array | None = None) -> Array:
        """The next `count` symbols, uint8, each by its table."""
        if not len(self.states):
            raise CodedError("the file has no coded part, though something is coded.", mend="fetch it again.")
        if which is None and tables.frequencies.max() == TOTAL:
            return np.full(count, tables.frequencies.argmax(), np.uint8)
        if count < _WORTH_SLOTS * len(tables.frequencies):
            return self._searched(count, tables, which)
        read = self._in_one if len(self.states) == 1 else self._in_lanes
        found = np.empty(count, np.uint8)
        step = _PART // len(self.states) * len(self.states)
        for begin in range(0, count, step):
            part = slice(begin, min(begin + step, count))
            tops = None if which is None else which[part].astype(np.uint64) << np.uint64(PRECISION)
            found[part] = tables.symbols.ravel()[read(part.stop - begin, tables, tops)]
        return found

    def close(self) -> None:
        """Raises CodedError unless every word was read and every lane is back where it began."""
        if self.at != len(self.words) or (self.states != LOWEST).any():
            raise CodedError("the file's coded part does not end where it should.", mend="fetch it again.")

    def _searched(self, count: int, tables: Tables, which: Array | None) -> Array:
        """The next few symbols, each looked for in its table."""
        starts, frequencies = tables.starts.tolist(), tables.frequencies.tolist()
        words, at, states = self.words[self.at : self.at + count].tolist(), 0, self.states.tolist()
        found = np.empty(count, np.uint8)
        for index, table in enumerate([0] * count if which is None else which.tolist()):
            lane = index % len(states)
            state, begins = states[lane], starts[table]
            slot = state & TOTAL - 1
            symbol = bisect_right(begins, slot) - 1
            state = frequencies[table][symbol] * (state >> PRECISION) + slot - begins[symbol]
            if state < LOWEST:
                if at == len(words):
                    raise _cut_off()
                state = state << 16 | words[at]
                at += 1
            states[lane] = state
            found[index] = symbol
        self.at += at
        self.states = np.array(states, np.uint64)
        return found

    def _in_lanes(self, count: int, tables: Tables, tops: Array | None) -> Array:
        """The next `count` slots, each in its table; `tops` are where the tables begin."""
        found, factors, offsets = np.empty(count, np.uint64), tables.factors, tables.offsets
        lanes, words, at = len(self.states), self.words, self.at
        for begin in range(0, count, lanes):
            part = slice(begin, begin + lanes)
            slots = found[part]
            states = self.states[: len(slots)]
            np.bitwise_and(states, _SLOT, out=slots)
            if tops is not None:
                slots += tops[part]
            states >>= _SHIFT
            states *= factors[slots]
            states += offsets[slots]
            low = (states < _LOWEST).nonzero()[0]
            if len(low):
                fetched = words[at : at + len(low)]
                if len(fetched) < len(low):
                    raise _cut_off()
                states[low] = states[low] << _WORD | fetched
                at += len(low)
        self.at = at
        return found

    def _in_one(self, count: int, tables: Tables, tops: Array | None) -> Array:
        """What `_in_lanes` does, of one lane."""
        factor, offset = tables.listed
        bases = [0] * count if tops is None else tops.tolist()
        words, at, state = self.words[self.at : self.at + count].tolist(), 0, int(self.states[0])
        try:
            for index, base in enumerate(bases):
                slot = bases[index] = (state & TOTAL - 1) + base
                state = factor[slot] * (state >> PRECISION) + offset[slot]
                if state < LOWEST:
                    state = state << 16 | words[at]
                    at += 1
        except IndexError:
            raise _cut_off() from None
        self.at += at
        self.states[0] = state
        return np.array(bases, np.intp)


def _cut_off() -> CodedError:
    return CodedError("the file's coded part is cut off.", mend="fetch it again.")
