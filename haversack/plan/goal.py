"""Goal: what a search is after. Which candidates meet it, what counts as a gain, and which of several is the answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from haversack.limits import LIMITS, Budget, Limit, Miss
from haversack.measurement import Candidate, Figure, chance
from haversack.recipe import Step

_WORTH_IT = 0.02
"""A measure has moved when it fell by this share: less is within what a layout or a rerun changes."""
_MEASURES = tuple(limit for limit in LIMITS if not limit.at_least)
"""What a gain is told in, less being better."""
_UNLIMITED = tuple(limit for limit in LIMITS if limit.field in ("flash_bytes", "latency_ms"))
"""What counts where nothing is limited."""
_ALWAYS = tuple(limit for limit in LIMITS if limit.field in ("flash_bytes", "instructions", "latency_ratio"))
"""What is told of every candidate, limited or not."""


@dataclass(frozen=True)
class Goal:
    """Limits, and the original that scores and gains are held against."""

    budget: Budget
    """Everything that must hold, what the device has included."""
    baseline: Candidate
    asked: Budget | None = None
    """The limits that somebody set, the whole budget when None: to need less memory than the device has is no gain."""

    def misses(self, candidate: Candidate) -> tuple[Miss, ...]:
        """The limits that are known to be missed, worst first."""
        return candidate.measurement.misses(self.budget, self._score_before)

    def unjudged(self, candidate: Candidate) -> tuple[str, ...]:
        """The limits of size and speed for which no figure is known. A score is known as soon as it was taken."""
        judged = candidate.measurement.judged(self.budget, self._score_before)
        unjudged = (each.limit for each in judged if each.state == "unjudged")
        return tuple(limit.name for limit in unjudged if limit.judged_by != "samples")

    def fits(self, candidate: Candidate) -> bool:
        """Whether size and speed are known to be within their limits, and the score too where it was taken."""
        return not self.misses(candidate) and not self.unjudged(candidate)

    def fits_but_for_score(self, candidate: Candidate) -> bool:
        """Whether size and speed are known to be within their limits, whatever the score is."""
        return not self.unjudged(candidate) and all(miss.limit == "score" for miss in self.misses(candidate))

    @property
    def allowed_drop(self) -> float | None:
        """How far the score may fall below the original's; None where nothing limits it, or nobody took it."""
        score = self._score_before
        if score is None or not self.budget.limits_score:
            return None
        bounds = [bound for limit, bound in self.budget.bounds(score).items() if limit.figure == "score"]
        return max(0.0, score - max(bound for bound in bounds if bound is not None))

    @property
    def tolerated(self) -> float:
        """How far the score may fall: as far as somebody allowed, or as chance alone moves it."""
        allowed = self.allowed_drop
        return noise(self.baseline) if allowed is None else allowed

    @property
    def asks_for_more(self) -> bool:
        """Whether the score may not be as low as the original's."""
        score, bounds = self._score_before, self.budget.bounds(self._score_before)
        return any(limit.figure == "score" and bound is not None and score is not None and bound > score
                   for limit, bound in bounds.items())  # fmt: skip

    def with_score_lost(self, lost: float) -> dict[str, float]:
        """For each limit on the score, by field, what it would have to be where so much of the score is lost.

        Infinite where another of them forbids that too.
        """
        score = self._score_before or 0.0
        bounds = {limit: limit.bound(allowed, score) for limit, allowed in self.budget.asked.items()
                  if limit.figure == "score"}  # fmt: skip
        forbidding = {limit for limit, bound in bounds.items() if bound is None or score - lost < bound}
        needed = {limit: lost if limit.kind == "drop" else score - lost for limit in bounds}
        return {limit.field: value if forbidding == {limit} else math.inf for limit, value in needed.items()}

    def predictable(self, measures: Collection[str]) -> dict[str, float]:
        """The limits on what these fields of a measurement hold; a time on this host as a ratio to the original's."""
        asked = {limit.field: allowed for limit, allowed in self.budget.asked.items() if not limit.at_least}
        latency = self.baseline.measurement.latency_ms
        if "latency_ms" in asked.keys() - set(measures) and latency is not None and latency.value:
            ratio = asked.pop("latency_ms") / latency.value
            asked["latency_ratio"] = min(ratio, asked.get("latency_ratio", ratio))
        return {name: allowed for name, allowed in asked.items() if name in measures}

    def met(self, candidate: Candidate) -> bool:
        """Whether every limit is known to be met."""
        return candidate.measurement.score is not None and self.fits(candidate)

    def shortfall(self, candidate: Candidate) -> str:
        """What is missed worst, or cannot be judged; empty where neither is."""
        missed, unjudged = self.misses(candidate), self.unjudged(candidate)
        if missed:
            return f"misses {missed[0]}"
        return f"{' and '.join(unjudged)} cannot be judged: no figure is known" if unjudged else ""

    def standing(self, candidate: Candidate) -> str:
        """Each limit beside what the candidate has: `flash 18.2 kB of 20.0 kB`; its score where none limits it."""
        told = [
            f"{each.limit.measure} {'unknown' if each.found is None else each.limit.show(each.found)} of "
            f"{'unknown' if each.allowed is None else each.limit.show(each.allowed)}"
            for each in candidate.measurement.judged(self.budget, self._score_before)
        ]
        score = candidate.measurement.score
        if score and not self.budget.limits_score:
            told.append(f"score {score.value:.4f}")
        return ", ".join(told)

    def distance(self, candidate: Candidate) -> tuple[int, float]:
        """How far from all limits it is, less being nearer: first what is unknown, then the sum of what is missed."""
        return len(self.unjudged(candidate)), sum(miss.share for miss in self.misses(candidate))

    def rank(self, candidate: Candidate) -> tuple[tuple[int, float], float, float]:
        """The order of candidates that are not enough yet: the nearest, then the best score, then the least load."""
        return self.distance(candidate), -_score(candidate), self._load(candidate)

    def moved(self, before: Candidate, after: Candidate) -> bool:
        """Whether a measure that was limited fell noticeably; without limits, one fell and none of the others rose."""
        changes = [_change(old, new) for old, new in zip(*map(self._measures, (before, after)), strict=True)]
        fell = any(change < 1 - _WORTH_IT for change in changes)
        return fell and (bool(self._limited) or all(change < 1 + _WORTH_IT for change in changes))

    def gain(self, before: Candidate, after: Candidate) -> str:
        """What became of the measures that count, and of size and speed beside them: `flash x0.25, latency x0.50`."""
        wanted = [_told(limit, before, after) for limit in self._wanted]
        # Where a time was limited, that on another machine says nothing beside it.
        limited = {limit.measure for limit in self._wanted}
        free = [limit for limit in _ALWAYS if limit.measure not in limited]
        known = [limit for limit in free if _figure(before, limit) and _figure(after, limit)]
        beside = ", ".join(_told(limit, before, after) for limit in known)
        return ", ".join(wanted) + (f"; not limited: {beside}" if beside else "")

    def answer(self, candidates: Sequence[Candidate], done: Collection[Step] = ()) -> Candidate | None:
        """Of those that meet every limit, the one to ship; None where none does.

        The best score, where scores within the noise are equal; of equals the smaller and faster in what was limited;
        of those that need as little, what needed no training; of these, whose outputs are nearest to the original's on
        the samples of the score, which chance moves less than the score, and where that is not known of all the best
        score. None that meets the limits dominates it (`dominates`). `done` are steps whose training counts for
        nothing: all candidates share it.
        """
        met = [candidate for candidate in candidates if self.met(candidate)]
        if not met:
            return None
        best = max(met, key=_score)
        equal = [candidate for candidate in met if _score(candidate) >= _score(best) - noise(best)]
        least = min(map(self._load, equal))
        small = [candidate for candidate in equal if self._load(candidate) <= least * (1 + _WORTH_IT)]

        known = all(_lost(candidate) is not None for candidate in met)

        def order(candidate: Candidate) -> tuple[bool, float, float, float]:
            far = (_lost(candidate) or 0.0) if known else 0.0
            return _trained(candidate, done), far, -_score(candidate), self._load(candidate)

        answer = min(small, key=order)
        above = [candidate for candidate in met if self.dominates(candidate, answer)]
        undominated = [one for one in above if not any(self.dominates(other, one) for other in above)]
        return min(undominated, key=order, default=answer)

    def dominates(self, one: Candidate, other: Candidate) -> bool:
        """Whether `one` is as good in flash, latency, all that was limited and score, and in one better beyond noise.

        The noise of a score is what chance moves it by; that of a size or a time is 2 %.
        """
        limits = dict.fromkeys((*self._wanted, *_ALWAYS))
        ours, theirs = ([_value(each, limit) for limit in limits] for each in (one, other))
        changes = [_change(old, new) for old, new in zip(theirs, ours, strict=True)]
        if any(change > 1 for change in changes) or _score(one) < _score(other):
            return False
        return any(change < 1 - _WORTH_IT for change in changes) or _score(one) > _score(other) + noise(other)

    def kept_its_score(self, candidate: Candidate) -> bool:
        """Whether it lost no more than the noise, or what somebody allowed."""
        if self._score_before is None or self.budget.limits_score:
            return self.met(candidate)
        return self.met(candidate) and _score(candidate) >= self._score_before - noise(self.baseline)

    def _load(self, candidate: Candidate) -> float:
        """The sum of the measures that were limited, each as a share of the original's."""
        found = zip(self._measures(self.baseline), self._measures(candidate), strict=True)
        return sum(math.inf if new is None else _change(old or 1.0, new) for old, new in found)

    def _measures(self, candidate: Candidate) -> tuple[float | None, ...]:
        return tuple(_value(candidate, limit) for limit in self._wanted)

    @property
    def _wanted(self) -> tuple[Limit, ...]:
        """The limits whose measures count: those that bind, or the file's size and the latency where none does."""
        return self._limited or _UNLIMITED

    @property
    def _limited(self) -> tuple[Limit, ...]:
        """The limits that somebody set, or of whose measure the original needs more than the device has."""
        asked, budget = (self.asked or self.budget).asked, self.budget.asked

        def binds(limit: Limit) -> bool:
            need = _figure(self.baseline, limit)
            return limit in budget and need is not None and need.value > budget[limit]

        return tuple(limit for limit in _MEASURES if limit in asked or binds(limit))

    @property
    def _score_before(self) -> float | None:
        score = self.baseline.measurement.score
        return score.value if score else None


def noise(candidate: Candidate) -> float:
    """How far chance alone moves the candidate's score."""
    score = candidate.measurement.score
    return chance(score) if score else 0.0


def _figure(candidate: Candidate, limit: Limit) -> Figure | None:
    """What a limit is about. On this host, where moments differ, a time is told by its ratio to the original's."""
    measurement = candidate.measurement
    timed_here = limit.field == "latency_ms" and measurement.conditions.device == "host"
    return measurement.latency_ratio if timed_here else measurement.figure(limit)


def _value(candidate: Candidate, limit: Limit) -> float | None:
    figure = _figure(candidate, limit)
    return None if figure is None else figure.value


def _told(limit: Limit, before: Candidate, after: Candidate) -> str:
    """What became of a measure: `flash x0.25`."""
    was, now = _figure(before, limit), _figure(after, limit)
    change = f"x{_change(was.value, now.value):.2f}" if was and now else "unknown before" if now else "unknown"
    return f"{limit.measure} {change}"


def _change(old: float | None, new: float | None) -> float:
    """The measure after over before. To become known is a gain, to become unknown a loss."""
    if new is None or old is None:
        return 1.0 if new is old else math.inf if new is None else 0.0
    return new / old if old else 1.0 if new == old else math.inf


def _trained(candidate: Candidate, done: Collection[Step]) -> bool:
    return any(step.trains for step in candidate.recipe.steps if step not in done)


def _lost(candidate: Candidate) -> float | None:
    """How far its outputs are from the original's, in nats; None where nobody measured it."""
    fidelity = candidate.measurement.fidelity
    return fidelity.divergence if fidelity else None


def _score(candidate: Candidate) -> float:
    score = candidate.measurement.score
    return score.value if score else -math.inf
