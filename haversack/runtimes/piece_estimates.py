"""Estimates of pieces that nobody timed, from those that somebody did. Times are in any unit, the same for all."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from haversack.errors import MeasureError
from haversack.runtimes.pieces import Piece, Shape

_LEAST = 1e-9
"""Stands for no time at all, of which there is no logarithm."""

_PROPORTIONAL = 0.1
"""How much a fixed time counts beside errors, both over the mean time: two files much alike settle no slope."""


class Estimates:
    """Times of pieces by their channels, of those of one family, or by multiplications and bytes of others."""

    def __init__(self, times: Mapping[Piece, float]) -> None:
        self._times = times
        self._families: dict[tuple[object, ...], dict[Shape, float]] = defaultdict(dict)
        self._members: dict[tuple[object, ...], list[Piece]] = defaultdict(list)
        for piece, taken in times.items():
            self._families[piece.family][piece.axes] = taken
            self._members[piece.family].append(piece)
        self._rates: dict[tuple[str, ...], _Rates] = {}

    def of(self, piece: Piece) -> float:
        """What the piece takes: as timed, between timed ones of its family, or by the rates of those most like it.

        Raises MeasureError where nothing was timed at all.
        """
        if piece in self._times:
            return self._times[piece]
        between = _between(self._families.get(piece.family, {}), piece.axes)
        return self._by_rates(piece) if between is None else between

    def _by_rates(self, piece: Piece) -> float:
        """By the rates of the narrowest class with pieces in it, times what the nearest one takes over its rate."""
        family = self._families.get(piece.family)
        for named in ((piece.kind, piece.numbers), (piece.numbers,), ()):
            rates = self._rates_of(named)
            if rates is not None:
                guess = rates.of(piece)
                return guess * self._correction(piece, rates) if family else guess
        raise MeasureError("no piece was timed yet, so nothing can be estimated.", mend="time some first.")

    def _rates_of(self, named: tuple[str, ...]) -> _Rates | None:
        if named not in self._rates:
            alike = {piece: taken for piece, taken in self._times.items() if set(named) <= {piece.kind, piece.numbers}}
            if not alike:
                return None
            self._rates[named] = _Rates.fitted(alike)
        return self._rates[named]

    def _correction(self, piece: Piece, rates: _Rates) -> float:
        """Timed over rated of the pieces of its family, nearer ones counting more."""
        weights, logs = [], []
        for known in self._members[piece.family]:
            distance = sum(math.log(ours / theirs) ** 2 for ours, theirs in zip(piece.axes, known.axes, strict=True))
            weights.append(1 / max(distance, 1e-6))
            logs.append(math.log(max(self._times[known], _LEAST) / max(rates.of(known), _LEAST)))
        return math.exp(float(np.average(logs, weights=weights)))


def _between(timed: Mapping[Shape, float], at: Shape) -> float | None:
    """The time at these channels, linear between logarithms; None where not every side has a timed one."""
    cell = [_neighbours(sorted({known[axis] for known in timed}), channels) for axis, channels in enumerate(at)]
    total = 0.0
    for corner in itertools.product(*cell):
        share = math.prod(weight for _, weight in corner)
        known = timed.get(tuple(channels for channels, _ in corner))
        if share and known is None:
            return None
        total += share * math.log(max(known or 0.0, _LEAST))
    return math.exp(total) if all(cell) else None


def _neighbours(values: Sequence[int], at: int) -> tuple[tuple[int, float], ...]:
    """The next value below and above, with what each counts; neither beyond the ends."""
    below, above = bisect_right(values, at) - 1, bisect_left(values, at)
    if below < 0 or above == len(values):
        return ()
    low, high = values[below], values[above]
    if low == high:
        return ((low, 1.0),)
    share = math.log(at / low) / math.log(high / low)
    return (low, 1 - share), (high, share)


@dataclass(frozen=True)
class _Rates:
    """A time as a call, and so much a multiplication and a byte."""

    call: float
    mac: float
    byte: float

    @classmethod
    def fitted(cls, timed: Mapping[Piece, float]) -> _Rates:
        """The rates, none negative, that come nearest to the timed ones in proportion."""
        rows = np.array([[1.0, piece.macs, piece.moved_bytes] for piece in timed])
        taken = np.maximum(np.array(list(timed.values())), _LEAST)
        best, rates = math.inf, np.zeros(3)
        for count in range(1, 4):
            for some in itertools.combinations(range(3), count):
                found = np.linalg.lstsq(rows[:, some] / taken[:, None], np.ones(len(taken)), rcond=None)[0]
                missed = float(((rows[:, some] @ found / taken - 1) ** 2).sum())
                if (found >= 0).all() and missed < best - 1e-12:
                    best, rates = missed, np.zeros(3)
                    rates[list(some)] = found
        return cls(*map(float, rates))

    def of(self, piece: Piece) -> float:
        """What they say of the piece."""
        return max(self.call + self.mac * piece.macs + self.byte * piece.moved_bytes, _LEAST)


@dataclass(frozen=True)
class Line:
    """What a whole file takes, from the sum of its pieces: a time that each has, and a factor."""

    fixed: float = 0.0
    factor: float = 1.0

    @classmethod
    def fitted(cls, sums: Sequence[float], wholes: Sequence[float]) -> Line:
        """The line nearest to the whole files' times, in proportion; through zero as far as few of them say.

        Raises MeasureError where no file was timed, or one in no time.
        """
        if not wholes or min(*sums, *wholes) <= 0:
            raise MeasureError("no whole file was timed yet, so no sum of pieces is told apart from one.")
        taken, total = np.array(wholes), np.array(sums)
        rows = np.stack([1 / taken, total / taken], 1)
        towards_zero = [_PROPORTIONAL / taken.mean(), 0.0]
        rows, wanted = np.vstack([rows, towards_zero]), np.append(np.ones(len(taken)), 0.0)
        fixed, factor = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        if factor <= 0:
            return cls(0.0, float(np.median(taken / total)))
        return cls(float(fixed), float(factor))

    def of(self, total: float) -> float:
        """What a file takes whose pieces take so much."""
        return self.fixed + self.factor * total
