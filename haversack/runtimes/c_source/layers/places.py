"""Places: how far apart numbers lie along the axes of two values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """So many numbers, and how far they lie apart on one side and on the other."""

    count: int
    one: int
    other: int

    def goes_on(self, inner: Axis) -> bool:
        """Whether the numbers of an axis within this one go on where those of its last place ended."""
        return (self.one, self.other) == (inner.count * inner.one, inner.count * inner.other)


def merged(axes: Iterable[Axis]) -> list[Axis]:
    """The axes, those being one that are so in memory; without those of one number."""
    found = list[Axis]()
    for axis in axes:
        if axis.count == 1:
            continue
        if found and found[-1].goes_on(axis):
            found[-1] = Axis(found[-1].count * axis.count, axis.one, axis.other)
        else:
            found.append(axis)
    return found


def steps(shape: Sequence[int]) -> list[int]:
    """How many numbers lie from one place of an axis to the next."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def filled(numbers: Sequence[int], length: int, by: int) -> tuple[int, ...]:
    """The numbers as the last of so many."""
    return (*(by,) * (length - len(numbers)), *numbers)
