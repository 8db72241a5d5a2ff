"""Frequency tables: how often each symbol comes, in a few bytes.

A table need not be exact: frequencies that are off by a tenth lengthen the code by less than a hundredth (the loss is
half the squared error). So frequencies are written as codes of 2^m steps an octave, each as its difference from the one
before, in an exponential Golomb code; for every symbol, or only for every 2^s-th with straight lines between, which is
all that the smooth histogram of many integers needs. `chosen` tries the ways and keeps the shortest in table and
symbols together.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.coded.bits import BitReader, BitWriter, golomb_bits
from haversack.coded.rans import PRECISION, TOTAL
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]

# Exponents up to here: a code is at most 1 + 15 * 2^3 + 7.
_OCTAVES = 15
_STEPS = range(4)
_KNOTS = range(6)
_ORDERS = np.arange(4)
_CONSTANT = 7


@dataclass(frozen=True, eq=False)
class Table:
    """How the table of `count` symbols is written: `codes` at every 2^`knots`-th symbol, 2^`steps` codes an octave.

    `order` is that of the Golomb code. Where `knots` is 7 there is one symbol, which `codes` holds.
    """

    count: int
    knots: int
    codes: Array
    steps: int = 0
    order: int = 0

    @property
    def frequencies(self) -> Array:
        """Frequencies of the `count` symbols, int64, which add up to 2^14."""
        if self.knots == _CONSTANT:
            return np.where(np.arange(self.count) == self.codes, TOTAL, 0).astype(np.int64)
        return _normalised(_between(_weights(self.codes, self.steps), self.knots, self.count))

    @property
    def bits(self) -> int:
        """The length of the written table."""
        if self.knots == _CONSTANT:
            return 3 + 8
        return 3 + 2 + 2 + int(golomb_bits(_differences(self.codes), self.order).sum())

    def write(self, writer: BitWriter) -> None:
        """The table, appended."""
        writer.put(self.knots, 3)
        if self.knots == _CONSTANT:
            writer.put(int(self.codes[0]), 8)
            return
        writer.put(self.steps, 2)
        writer.put(self.order, 2)
        for difference in _differences(self.codes).tolist():
            writer.put_golomb(difference, self.order)


def read_table(reader: BitReader, count: int) -> Array:
    """The frequencies of the next table, int64 (count,); raises CodedError where it is none."""
    knots = reader.take(3)
    if knots == _CONSTANT:
        only = reader.take(8)
        _check(only < count)
        return Table(count, knots, np.array([only])).frequencies
    _check(knots in _KNOTS)
    steps, order = reader.take(2), reader.take(2)
    codes = [0]
    for _ in range(_knots(count, knots)):
        folded = reader.golomb(order)
        codes.append(codes[-1] + (folded >> 1 ^ -(folded & 1)))
        _check(0 <= codes[-1] <= _largest(steps))
    _check(knots > 0 or any(codes))
    return Table(count, knots, np.array(codes[1:]), steps, order).frequencies


def chosen(counts: Array) -> tuple[Table, float]:
    """The table for symbols that come `counts` times, and the bits that table and symbols take together.

    Each distance between codes is tried with two steps an octave, and the best of them with all.
    """
    present = np.flatnonzero(counts)
    if len(present) < 2:
        table = Table(len(counts), _CONSTANT, present if len(present) else np.zeros(1, np.int64))
        return table, table.bits
    apart = [knots for knots in _KNOTS if not knots or _knots(len(counts), knots - 1) >= 4]
    first = _best(counts, ((knots, 1) for knots in apart))
    finer = _best(counts, ((first[0].knots, steps) for steps in _STEPS if steps != 1))
    return min(first, finer, key=lambda each: each[1])


def _best(counts: Array, ways: Iterable[tuple[int, int]]) -> tuple[Table, float]:
    tables = (_table(counts, *way) for way in ways)
    costs = ((table, table.bits + symbol_bits(counts, table.frequencies)) for table in tables)
    return min(costs, key=lambda each: each[1])


def _table(counts: Array, knots: int, steps: int) -> Table:
    codes = _codes(_at_knots(counts, knots), steps)
    order = int(golomb_bits(_differences(codes), _ORDERS[:, None]).sum(1).argmin())
    return Table(len(counts), knots, codes, steps, order)


def symbol_bits(counts: Array, frequencies: Array) -> float:
    """The bits of symbols that come `counts` times; infinite where a table leaves one of them out."""
    present = counts > 0
    if not frequencies[present].all():
        return float("inf")
    return float((counts[present] * (PRECISION - np.log2(frequencies[present]))).sum())


def _at_knots(counts: Array, knots: int) -> Array:
    """What the counts are around every 2^`knots`-th symbol, each neighbour weighing less the farther it is."""
    if not knots:
        return counts.astype(float)
    step = 1 << knots
    symbols = np.arange(len(counts))
    places = np.arange(_knots(len(counts), knots)) * step
    shares = np.maximum(0, 1 - np.abs(places[:, None] - symbols) / step)
    return np.asarray((shares @ counts + 0.1) / shares.sum(1))


def _codes(targets: Array, steps: int) -> Array:
    """The code of each target: 0 for none, else 1 + its distance above the smallest code, 2^`steps` codes an octave."""
    present = targets > 0
    least = max(float(targets[present].min()), float(targets.max()) / 2**_OCTAVES)
    mantissas, exponents = np.frexp(np.maximum(targets / least, 1))
    codes = np.rint((exponents - 1 + 2 * mantissas - 1) * (1 << steps)).astype(np.int64)
    return np.where(present, np.minimum(codes + 1, _largest(steps)), 0)


def _largest(steps: int) -> int:
    return 1 + ((_OCTAVES + 1) << steps) - 1


def _weights(codes: Array, steps: int) -> Array:
    """What codes stand for: (2^m + fraction) * 2^octave, and 0 for 0."""
    octaves, fractions = np.divmod(np.maximum(codes - 1, 0), 1 << steps)
    return np.where(codes > 0, (1 << steps) + fractions << octaves, 0)


def _between(weights: Array, knots: int, count: int) -> Array:
    """Straight lines between the weights at every 2^`knots`-th symbol, rounded down, and never 0 unless exact."""
    if not knots:
        return weights.copy()
    left, part = np.divmod(np.arange(count), 1 << knots)
    right = np.minimum(left + 1, len(weights) - 1)
    lines = weights[left] * ((1 << knots) - part) + weights[right] * part >> knots
    return np.asarray(np.maximum(lines, 1))


def _normalised(weights: Array) -> Array:
    """Frequencies in proportion to the weights, at least 1 where there is a weight, which add up to 2^14."""
    present = weights > 0
    free = TOTAL - int(present.sum())
    sums = np.cumsum(present) + np.cumsum(weights) * free // int(weights.sum())
    sums[1:] -= sums[:-1].copy()
    return np.asarray(sums)


def _differences(codes: Array) -> Array:
    """Each code's difference from the one before, folded to numbers from 0 up: 0, -1, 1, -2, 2..."""
    steps = codes.copy()
    steps[1:] -= codes[:-1]
    return np.where(steps < 0, -2 * steps - 1, 2 * steps)


def _knots(count: int, knots: int) -> int:
    """How many codes a table of `count` symbols has."""
    return count if not knots else -(-(count - 1) // (1 << knots)) + 1


def _check(holds: bool) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise CodedError("a frequency table of the file is damaged.", mend="fetch it again.")
