"""Sets of points that are to be small in every place: which beat which, and how much of a box they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is nowhere larger than the other, and somewhere smaller."""
    return one != other and all(ours <= theirs for ours, theirs in zip(one, other, strict=True))


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other one dominates, each once, in order."""
    kept = list[Point]()
    for point in dict.fromkeys(points):
        if not any(dominates(other, point) for other in kept):
            kept = [*(other for other in kept if not dominates(point, other)), point]
    return sorted(kept)


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """The volume that is dominated by the points, up to the reference (Zitzler and Thiele 1998)."""
    inside = front(point for point in points if all(a < b for a, b in zip(point, reference, strict=True)))
    if not inside:
        return 0.0
    if len(reference) == 1:
        return reference[0] - inside[0][0]
    edges = [*(point[0] for point in inside), reference[0]]
    return sum(
        (high - low) * hypervolume((point[1:] for point in inside[: count + 1]), reference[1:])
        for count, (low, high) in enumerate(pairwise(edges))
        if high > low
    )


def hypervolumes(points: Sequence[Point], reference: Point) -> list[float]:
    """What the first point holds, the first two, and so on."""
    held, kept, known = 0.0, list[Point](), list[float]()
    for point in points:
        if not any(other == point or dominates(other, point) for other in kept):
            kept = front([*kept, point])
            held = hypervolume(kept, reference)
        known.append(held)
    return known


def needed(points: Sequence[Point], reference: Point, wanted: float) -> int | None:
    """How many points, from the first on, it takes to hold so much; None where all do not."""
    volumes = hypervolumes(points, reference)
    return next((count for count, volume in enumerate(volumes, 1) if volume >= wanted), None)
