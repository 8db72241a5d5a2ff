"""Measurement, Candidate, frontier: what was found, and where each figure comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from haversack.limits import Budget, Limit, Miss
from haversack.recipe import Recipe

_UNKNOWN_CHANCE = 0.002
"""The share of a score that chance is taken to move where nobody knows of how many samples it is."""

Origin = Literal["estimated", "host", "emulator", "board"]


@dataclass(frozen=True)
class Figure:
    """One number with its origin and, where it has one, its spread (`low` to `high`).

    That is the range of an estimate, one standard error of a score to each side, the extremes of measured memory, and
    of a time that was measured the 95 % confidence interval of its median.
    """

    value: float
    origin: Origin
    low: float | None = None
    high: float | None = None
    part: bool = False
    """Whether it leaves something out that is limited with it: then a limit can be missed by it, and not met."""
    runtime: str = ""
    """Which runtime gave it, such as "litert"; empty where none was asked: of bytes and of estimates."""

    @property
    def worst(self) -> float:
        """The far end of an estimate, the median of a measurement."""
        return self.high if self.origin == "estimated" and self.high is not None else self.value


def share_of(samples: int, value: float) -> Figure:
    """A score that is a share of so many samples, with one standard error to each side.

    One success and one failure are added, so that a perfect score of few samples is not taken for certain (Laplace).
    """
    likely = (value * samples + 1) / (samples + 2)
    error = math.sqrt(likely * (1 - likely) / (samples + 2))
    return Figure(value, "host", max(0.0, value - error), min(1.0, value + error))


def chance(score: Figure) -> float:
    """How far chance alone moves a score: one standard error where the number of samples is known."""
    if score.low is None or score.high is None:
        return _UNKNOWN_CHANCE * abs(score.value)
    return max(score.high - score.value, score.value - score.low)


@dataclass(frozen=True)
class Parity:
    """How far the exported file is from the packed network that it was written from, on the calibration inputs.

    It says that the file is exact, and nothing about what packing cost: that is Fidelity.
    """

    max_steps: float
    """Largest output difference: in steps of the output's grid, or relative to the largest output when float."""
    argmax_agreement: float
    samples: int


@dataclass(frozen=True)
class Fidelity:
    """How far the exported file is from the original network, on the calibration inputs: what packing cost."""

    same_class: float
    """The share of samples whose largest output is the same one; 1 where outputs are not (batch, classes)."""
    mean_difference: float
    """Of the outputs, relative to the original's mean magnitude."""
    samples: int
    divergence: float | None = None
    """Of the outputs on samples that score it, in nats: the currency of planning (see calibration/currency.py)."""


@dataclass(frozen=True)
class Conditions:
    """Under which circumstances a measurement was made."""

    device: str
    runtime: str
    threads: int
    machine: str
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""
    """When: UTC, as ISO 8601 has it; empty for estimates."""
    timed_s: float = 0.0
    """For how many seconds the file and the original's were timed."""


@dataclass(frozen=True)
class Judgement:
    """A limit beside the figure that it is held against.

    It is met, missed, unjudged where no figure is known, and kept in part where the figure leaves something out. A time
    that was measured meets its limit when its whole confidence interval does, and misses it when all of that does; in
    between it is too close to call, which counts as missed.
    """

    limit: Limit
    allowed: float | None
    """None where a drop is limited from a score that nobody took."""
    figure: Figure | None

    @property
    def found(self) -> float | None:
        """What the limit is held against: a score as it was taken, the far end of an estimate."""
        if self.figure is None:
            return None
        return self.figure.value if self.limit.at_least else self.figure.worst

    @property
    def state(self) -> Literal["met", "missed", "too close", "in part", "unjudged"]:
        """What is unknown is never met."""
        figure, allowed = self.figure, self.allowed
        if figure is None or allowed is None or self.found is None:
            return "unjudged"
        if self._is_interval and (figure.low or 0.0) <= allowed < (figure.high or 0.0):
            return "too close"
        kept = self.found >= allowed - 1e-12 if self.limit.at_least else self.found <= allowed
        if not kept:
            return "missed"
        return "in part" if figure.part else "met"

    @property
    def miss(self) -> Miss | None:
        """By how much it is missed, or may be."""
        if self.state not in ("missed", "too close") or self.allowed is None or self.found is None:
            return None
        if self.state == "too close" and self.figure and self.figure.high is not None:
            return Miss(self.limit.name, self.allowed, self.figure.high, too_close=True)
        return Miss(self.limit.name, self.allowed, self.found)

    @property
    def _is_interval(self) -> bool:
        figure = self.figure
        known = figure is not None and figure.low is not None and figure.high is not None
        return known and self.limit.timed and figure is not None and figure.origin != "estimated"


@dataclass(frozen=True)
class Measurement:
    """What a candidate needs and how well it does; None where it is unknown (a dry run has no score)."""

    flash_bytes: Figure
    ram_bytes: Figure
    latency_ms: Figure | None
    conditions: Conditions
    instructions: Figure | None = None
    """What the device's core executes for one sample, of a network that runs there as a program of its own."""
    latency_ratio: Figure | None = None
    """Against the float original on this host, in alternation, in one runtime; None where that says nothing."""
    score: Figure | None = None
    """Its spread is what chance alone moves it by, where it is a share of a known number of samples."""
    energy_mj: Figure | None = None
    update_bytes: Figure | None = None
    """The network as a coded file: what a first installation sends over the link."""
    parity: Parity | None = None
    fidelity: Fidelity | None = None
    """None for the original itself."""
    validated: Figure | None = None
    """The score on samples that decided nothing, of an answer alone, where the task has such samples."""
    notes: tuple[str, ...] = ()
    """What was said while it was made and written that whoever uses it must know."""

    def figure(self, limit: Limit) -> Figure | None:
        """What a limit is held against."""
        figure: Figure | None = getattr(self, limit.figure or limit.field)
        return figure

    def judged(self, budget: Budget, baseline_score: float | None = None) -> tuple[Judgement, ...]:
        """Each limit of the budget with its figure. Estimates count with the far end of their spread."""
        bounds = budget.bounds(baseline_score).items()
        return tuple(Judgement(limit, allowed, self.figure(limit)) for limit, allowed in bounds)

    def misses(self, budget: Budget, baseline_score: float | None = None) -> tuple[Miss, ...]:
        """The limits that are missed or too close to call, worst first; what is unjudged is not met either."""
        missed = [each.miss for each in self.judged(budget, baseline_score) if each.miss]
        return tuple(sorted(missed, key=lambda miss: -miss.share))

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary for `measurement.json`, which `untrusted.typed` reads."""
        return asdict(self)


@dataclass(frozen=True)
class BenchReport:
    """What one exported file needs on this machine."""

    file: str
    runtime: str
    against: str | None
    threads: int
    disk_bytes: int
    """The file and the external data that it names."""
    ram_bytes: Figure
    latency_ms: Figure
    ratio: Figure | None
    """Its latency over that of the file `against`, timed in alternation."""
    operators: Mapping[str, int]
    """How often each operator stands in the file."""
    operators_as_run: Mapping[str, int]
    """The same after the runtime's own rewriting: a pair of quantize and dequantize that it fused is gone here."""
    integer_operators: int
    """Operators as run that compute on integers (conversions are not counted)."""
    warnings: tuple[str, ...]
    machine: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Candidate:
    """A recipe and what it was measured at."""

    recipe: Recipe
    measurement: Measurement


def frontier(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates that no other one beats in flash, latency and score at once."""
    pool = list(candidates)
    return tuple(one for one in pool if not any(_beats(other, one) for other in pool))


def _beats(one: Candidate, other: Candidate) -> bool:
    ours, theirs = _merits(one.measurement), _merits(other.measurement)
    return ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))


def _merits(found: Measurement) -> tuple[float, float, float]:
    latency = found.latency_ratio or found.latency_ms
    milliseconds = latency.value if latency else float("inf")
    score = found.score.value if found.score else float("-inf")
    return (-found.flash_bytes.value, -milliseconds, score)
