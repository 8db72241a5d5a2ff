"""Frontier: the recipes that no other beats, few enough to choose from, and what a plan said of them beforehand."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from haversack.limits import LIMITS, Limit
from haversack.measurement import Candidate, Figure, Measurement
from haversack.recipe import Recipe

MOST_ROWS = 9
"""More cannot be taken in at once."""
_MERITS = tuple(
    limit for limit in LIMITS if limit.field in ("flash_bytes", "instructions", "latency_ratio", "score_at_least")
)
"""What makes a frontier: flash, time, of a program as instructions, and score."""


@dataclass(frozen=True)
class FrontierRow:
    """A recipe on the frontier: what was predicted of it, and what it was measured at once it was built."""

    recipe: Recipe
    predicted: Mapping[str, float] = field(default_factory=dict)
    """By the field of `Measurement`; empty where nobody predicted anything."""
    measurement: Measurement | None = None
    """None where it was not built."""

    @property
    def built(self) -> bool:
        """Whether its figures were measured."""
        return self.measurement is not None

    def figure(self, limit: Limit) -> Figure | None:
        """What was measured of it, or else predicted, which is an estimate; None where neither was."""
        if self.measurement is not None:
            return self.measurement.figure(limit)
        value = self.predicted.get(limit.figure or limit.field)
        return None if value is None else Figure(value, "estimated")


@dataclass(frozen=True)
class LimitPrice:
    """What a limit costs: how much score `more` of it would buy."""

    limit: str
    """The name of a `Limit`."""
    more: float
    """How much more would be allowed, in the limit's unit."""
    gain: float
    """How far the score is expected to rise."""


@dataclass(frozen=True)
class Prediction:
    """A figure of a candidate as it was predicted, and as it was measured once that was built."""

    recipe: Recipe
    measure: str
    """The field of `Measurement`."""
    predicted: float
    true: float

    @property
    def error(self) -> float:
        """How far the prediction is off, as a share of the true figure."""
        off = self.predicted - self.true
        return off / self.true if self.true else math.copysign(math.inf, off) if off else 0.0


class Weighable(Protocol):
    """Anything with figures by limit: a row, a measurement."""

    def figure(self, limit: Limit) -> Figure | None:
        """What is known of it; None where nothing is."""
        ...


def measured_rows(candidates: Iterable[Candidate]) -> list[FrontierRow]:
    """A row for each scored candidate, each recipe once, the last measurement of it counting."""
    scored = {each.recipe: each.measurement for each in candidates if each.measurement.score is not None}
    return [FrontierRow(recipe, {}, measurement) for recipe, measurement in scored.items()]


def drawn(rows: Sequence[FrontierRow], original: Measurement, kept: Collection[Recipe] = ()) -> tuple[FrontierRow, ...]:
    """At most nine rows that neither another nor the original beats, the best score first, then the smallest.

    Of more, those stay that are `kept`, the best in flash, latency and score, and then the farthest from these. What is
    `kept` stays even where it is beaten: an answer is a row of its own frontier.
    """
    changed = [row for row in rows if row.recipe.steps]
    rivals = [_merits(row) for row in changed] + [_merits(original)]
    best = [row for row in changed if row.recipe in kept or not any(_beats(other, _merits(row)) for other in rivals)]
    chosen = _spread(best, kept)
    return tuple(sorted(chosen, key=lambda row: (-_merits(row)[-1], [-merit for merit in _merits(row)])))


def beaten(rows: Sequence[FrontierRow]) -> tuple[int, ...]:
    """The numbers, from 1, of rows that another beats: an answer within the noise of it, or what was built since."""
    merits = [_merits(row) for row in rows]
    return tuple(
        number for number, theirs in enumerate(merits, start=1) if any(_beats(ours, theirs) for ours in merits)
    )


def _merits(weighable: Weighable) -> tuple[float, ...]:
    """Flash, instructions, latency and score, more being better; what is unknown is worst."""
    merits = []
    for limit in _MERITS:
        figure = weighable.figure(limit)
        sign = 1 if limit.at_least else -1
        merits.append(-math.inf if figure is None else sign * figure.value)
    return tuple(merits)


def _beats(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def _spread(rows: Sequence[FrontierRow], kept: Collection[Recipe]) -> list[FrontierRow]:
    """Of more than nine rows those that lie far apart."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    columns = [_scaled(column) for column in zip(*map(_merits, rows), strict=True) if any(map(math.isfinite, column))]
    points = list(zip(*columns, strict=True))
    extremes = [max(range(len(rows)), key=column.__getitem__) for column in columns]
    chosen = list(dict.fromkeys([*(at for at, row in enumerate(rows) if row.recipe in kept), *extremes]))
    while len(chosen) < MOST_ROWS:
        apart = [min(math.dist(point, points[at]) for at in chosen) for point in points]
        chosen.append(max((at for at in range(len(rows)) if at not in chosen), key=apart.__getitem__))
    return [rows[at] for at in sorted(chosen)]


def _scaled(column: Sequence[float]) -> list[float]:
    """The values between 0 and 1; all that are unknown at -1."""
    known = [value for value in column if math.isfinite(value)] or [0.0]
    low, extent = min(known), (max(known) - min(known)) or 1.0
    return [(value - low) / extent if math.isfinite(value) else -1.0 for value in column]
