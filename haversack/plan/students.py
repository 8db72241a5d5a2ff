"""Students: which members of the compact families just fit, and which of those learns best in a short time.

Members are names and sizes here. What they need and how well they learn is told by callables.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from haversack import zoo
from haversack.limits import Miss

_STEPS = 16
"""Widths are sixteenths: channels come in eights, so a finer grid would repeat networks."""
_WIDEST = 2 * _STEPS
_LARGE = 64
"""From so many pixels on, half the resolution is worth a thought."""
_WEIGHED = 2
"""So many shapes of a family are weighed."""


@dataclass(frozen=True)
class FamilyMember:
    """A network of a family, as the zoo builds it."""

    family: str
    width: float = 1.0
    depth: float = 1.0
    downsampling: int = 32
    shrink: int = 1


@dataclass(frozen=True)
class Counts:
    """What can be counted without tracing a network."""

    parameters: int
    macs: int

    @property
    def capacity(self) -> float:
        """Their product: what a network may be able to learn grows with both."""
        return float(self.parameters) * self.macs

    def within(self, most: Counts) -> bool:
        """Whether neither is above `most`."""
        return self.parameters <= most.parameters and self.macs <= most.macs


@dataclass(frozen=True)
class Scaled:
    """A member scaled to fit, or the smallest of a family that has none."""

    member: FamilyMember
    counts: Counts
    fits: bool


@dataclass(frozen=True)
class Yardstick:
    """What members are held against, from what is told at once to what takes seconds."""

    counts: Callable[[FamilyMember], Counts | None]
    """None where the family has no such member."""
    most: Counts
    """What no member that fits has more of."""
    estimated: Callable[[FamilyMember], Sequence[Miss]]
    """The limits that a member misses by estimate, worst first."""
    measured: Callable[[FamilyMember], Sequence[Miss]]
    """Those that its file misses."""

    def scaled(self, member: FamilyMember) -> Scaled | None:
        """The member with its counts, and whether those are within bounds."""
        counts = self.counts(member)
        return None if counts is None else Scaled(member, counts, counts.within(self.most))


@dataclass(frozen=True)
class Student:
    """A member that fits, and how far from its teacher a short training left it; None where it had no rival."""

    member: FamilyMember
    counts: Counts
    distance: float | None = None
    epochs: int = 0


def scaled(family: str, extent: int, yardstick: Yardstick) -> Scaled | None:
    """The member of the family that just fits, for inputs whose smaller side is `extent`; None where there is none.

    Of its depths, downsamplings and resolutions, that of the most capacity wins: parameters times multiply-accumulates,
    at the largest width that fits. Where nothing fits, it is the smallest member.
    """
    narrow = [each for shape in shapes(family, extent) if (each := yardstick.scaled(shape)) is not None]
    smallest = min(narrow, key=lambda each: each.counts.capacity, default=None)
    if smallest is None or not smallest.fits or yardstick.estimated(smallest.member):
        return smallest and replace(smallest, fits=False)
    widest = [_widest(each, yardstick) for each in narrow if each.fits]
    widest.sort(key=lambda each: -each.counts.capacity)
    fitting = [_fitting(each, yardstick) or smallest for each in widest[:_WEIGHED]]
    return _confirmed(max(fitting, key=lambda each: each.counts.capacity), yardstick)


def shapes(family: str, extent: int) -> Iterator[FamilyMember]:
    """The depths, downsamplings and resolutions that are tried, all at the smallest width."""
    most = zoo.downsampling(extent)
    for shrink in (1, 2) if extent >= _LARGE else (1,):
        for downsampling in dict.fromkeys((most // shrink, max(1, most // shrink // 2))):
            for depth in (1.0, 0.5):
                yield FamilyMember(family, 1 / _STEPS, depth, downsampling, shrink)


def _widest(narrow: Scaled, yardstick: Yardstick) -> Scaled:
    """The shape at the largest width whose counts are within bounds."""
    return _last(narrow.member, _WIDEST, yardstick, lambda each: each.fits) or narrow


def _fitting(widest: Scaled, yardstick: Yardstick) -> Scaled | None:
    """The shape at the largest width up to the given one that is estimated to fit; None where none is."""
    if not yardstick.estimated(widest.member):
        return widest
    most = _steps(widest) - 1
    return _last(widest.member, most, yardstick, lambda each: not yardstick.estimated(each.member))


def _confirmed(found: Scaled, yardstick: Yardstick) -> Scaled:
    """The member, or the next narrower one, whose file fits; the narrowest one where no file does.

    What a file takes grows with the square of the width at most, so that no step goes too far.
    """
    while missed := yardstick.measured(found.member):
        wanted = _steps(found) / math.sqrt(1 + missed[0].share)
        narrower = (
            yardstick.scaled(replace(found.member, width=each / _STEPS)) for each in range(_steps(found) - 1, 0, -1)
        )
        smaller = [each for each in narrower if each and each.counts.parameters < found.counts.parameters]
        if not smaller:
            return replace(found, fits=False)
        found = next((each for each in smaller if _steps(each) <= wanted), smaller[-1])
    return found


def _steps(found: Scaled) -> int:
    return round(found.member.width * _STEPS)


def _last(member: FamilyMember, most: int, yardstick: Yardstick, fits: Callable[[Scaled], bool]) -> Scaled | None:
    """The largest width of up to `most` steps that fits, by bisection; None where not even the least does."""
    fitting, first, last = None, 1, most
    while first <= last:
        middle = (first + last) // 2
        sized = yardstick.scaled(replace(member, width=middle / _STEPS))
        if sized is not None and fits(sized):
            fitting, first = sized, middle + 1
        else:
            last = middle - 1
    return fitting


def halved(
    students: Sequence[Student], judge: Callable[[FamilyMember, int], float], epochs: int, most: int
) -> tuple[Student, ...]:
    """The students with their distances, best first, by successive halving (Jamieson and Talwalkar 2016).

    All learn for `epochs`; the better half learns anew for twice as many, up to `most`, until one is left. `judge`
    gives the distance of a member after so many epochs, infinity where it cannot learn. A single one is not judged.
    """
    left, out = list(students), list[Student]()
    while len(left) > 1:
        epochs = min(epochs, most)
        judged = [replace(each, distance=judge(each.member, epochs), epochs=epochs) for each in left]
        judged.sort(key=lambda each: math.inf if each.distance is None else each.distance)
        stay = (len(judged) + 1) // 2
        left, out = judged[:stay], judged[stay:] + out
        epochs *= 2
    return (*left, *out)
