"""Histogram: how often a value falls where, counted in one pass, with bins that grow as larger numbers come.

Bins are as wide as a power of two and begin at multiples of it. So where the range outgrows them, pairs of them become
one and no count is divided, and what was seen does not depend on how it came in parts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 2048
"""Into so many equal bins between the ends a histogram is told."""
_FINE = 32768
"""At most one more than so many bins are kept: eight to sixteen for each that is told."""
_PRECISION = 24
"""A float32 has no finer digits than so many bits below its highest."""
_SMALLEST = -126
_AT_A_TIME = 1 << 16


class Histogram:
    """How often which numbers were added, of which every so manyth is counted; the ends are those of all."""

    def __init__(self, every: int = 1) -> None:
        self.low, self.high = math.inf, -math.inf
        self._every, self._added = every, 0
        self._exponent, self._first = _SMALLEST, 0
        self._counts = torch.zeros(0, dtype=torch.int64)

    def add(self, value: Tensor, low: float, high: float) -> None:
        """Counts the numbers of a value, of which these are the smallest and the largest."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(self._exponent, _exponent(self.low, self.high)))
        scale = 2.0**-self._exponent
        numbers = value.flatten()[-self._added % self._every :: self._every]
        self._added += value.numel()
        # Cut so small that all of it stays in the processor's cache.
        for some in numbers.split(_AT_A_TIME):
            bins = (some.float() * scale).sub_(self._first).to(torch.int32).clamp_(0, len(self._counts) - 1)
            self._counts += torch.bincount(bins, minlength=len(self._counts))

    def told(self) -> Tensor:
        """The counts of 2048 equal bins from the smallest number to the largest, in float64."""
        centres = (torch.arange(len(self._counts), dtype=torch.float64) + self._first + 0.5) * 2.0**self._exponent
        width = (self.high - self.low) / BINS or 1.0
        bins = ((centres - self.low) / width).long().clamp_(0, BINS - 1)
        return torch.bincount(bins, self._counts.double(), BINS)

    def _widen(self, exponent: int) -> None:
        """Makes the bins so wide, and as many as reach from the smallest number to the largest."""
        scale = 2.0**-exponent
        first, last = math.floor(self.low * scale), math.floor(self.high * scale)
        if (exponent, first, last) == (self._exponent, self._first, self._first + len(self._counts) - 1):
            return
        counts = torch.zeros(last - first + 1, dtype=torch.int64)
        if len(self._counts):
            bins = (torch.arange(len(self._counts)) + self._first >> exponent - self._exponent) - first
            counts.index_add_(0, bins.clamp_(0, len(counts) - 1), self._counts)
        self._exponent, self._first, self._counts = exponent, first, counts


def _exponent(low: float, high: float) -> int:
    """Of the narrowest bins of which no more than are kept cover the range."""
    wide = math.frexp((high - low) / _FINE)[1] if high > low else _SMALLEST
    size = max(abs(low), abs(high))
    return max(wide, math.frexp(size)[1] - _PRECISION if size else _SMALLEST, _SMALLEST)
