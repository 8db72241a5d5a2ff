"""Forecast: what each family of techniques alone, and all of them together, are predicted to reach on paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from haversack.choices import Bits
from haversack.limits import LIMITS, Limit
from haversack.plan.case import Need, points
from haversack.plan.drafting import MARGIN, planned, within_margin
from haversack.plan.goal import Goal
from haversack.plan.outlook import Outlook
from haversack.plan.solve import Solution
from haversack.plan.space import FORBIDDEN, Beliefs, Space
from haversack.recipe import Recipe, technique

COMBINATION, AS_IT_IS = "combination", "the network as it is"
_WHOLE, _FEW = "quantization", "4-bit weights"
SPARSE = "zeros and codebooks"
_IN_FLOAT = {
    "pruning": frozenset({"prune_channels", "prune_layers"}),
    "low-rank factorization": frozenset({"factorize"}),
    "compact architecture": frozenset({"replace_blocks"}),
    SPARSE: frozenset({"prune_weights", "cluster_weights"}),
}
_WHOLE_BITS = 8
_SHOWN = ("flash_bytes", "ram_bytes", "instructions", "latency_ms", "latency_ratio", "energy_mj", "update_bytes")
_EQUAL = 0.002
"""Falls of the score that differ by less are equal: then the plan of fewer techniques is advised first."""
_RUINED = 0.5
"""A fall of so much is predicted of networks that know next to nothing any more: how much exactly nobody can tell."""
_DROP = next(limit for limit in LIMITS if limit.kind == "drop")


@dataclass(frozen=True)
class Forecast:
    """A plan on paper: what it does, costs and loses, and which limits it misses."""

    recipe: Recipe
    figures: Mapping[str, float]
    """By the field of a limit."""
    loss: float
    """In nats, before any training."""
    fall: float | None
    """How far the score is expected to fall by that; None where a nat says nothing about the score."""
    misses: tuple[Need, ...] = ()
    """The limits that are missed, or kept with less room than predictions are off by."""
    unknown: tuple[str, ...] = ()
    """The titles of limits that no prediction can judge."""

    @property
    def enough(self) -> bool:
        """Whether it is predicted to be within every limit that can be predicted."""
        return not self.misses

    @property
    def techniques(self) -> tuple[str, ...]:
        """In the order in which they work."""
        return tuple(technique(step) for step in self.recipe.steps)

    @property
    def order(self) -> tuple[float, float, int, float]:
        """Of forecasts the least comes first: the nearest to all limits, the least fall, the fewest techniques."""
        distance = self.overrun + sum(need.needed - need.allowed for need in self.misses if need.limit is _DROP)
        fall = self.loss if self.fall is None else self.fall
        return distance, round(fall / _EQUAL), len(self.techniques), self.loss

    @property
    def overrun(self) -> float:
        """How far off the limits of size, memory and time it is, as a share of them."""
        return sum(abs(need.needed / need.allowed - 1) for need in self.misses if need.limit is not _DROP)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return {
            "recipe": self.recipe.to_toml(),
            "figures": dict(self.figures),
            "loss_nats": self.loss,
            "score_drop": self.fall,
            "enough": self.enough,
            "misses": [
                {"limit": each.limit.name, "allowed": each.allowed, "found": each.needed} for each in self.misses
            ],
            "unknown": list(self.unknown),
        }

    def __str__(self) -> str:
        rows = {limit.field: limit for limit in LIMITS}
        known = [rows[name] for name in _SHOWN if name in self.figures]
        figures = [f"{limit.title} {limit.show(self.figures[limit.field])}" for limit in known]
        missed = [f"{need.limit.title} (allowed {need.shown(need.allowed)})" for need in self.misses]
        met = "meets every limit that can be predicted" if self.unknown else "meets every limit"
        verdict = f"misses {', '.join(missed)}" if missed else met
        unknown = f"{' and '.join(self.unknown)} unknown until measured" if self.unknown else ""
        return "; ".join(filter(None, (", ".join((*figures, self._told_loss())), verdict, unknown)))

    def _told_loss(self) -> str:
        if self.fall is None:
            return f"loss {self.loss:.2g} nats"
        if self.fall >= _RUINED:
            return "the score is lost before training"
        return f"score about {points(self.fall)} lower" if self.fall >= _EQUAL / 2 else "score the same"


def forecasts(spaces: Sequence[Space], goal: Goal, *, scores: bool) -> dict[str, Forecast]:
    """By family the plan that loses least within the limits of `goal`, or comes nearest to them.

    A family that has nothing to do is left out, and so are fewer bits where 8 are enough. `scores` says whether a loss
    in nats tells how far the score falls. Which limits the network misses as it is was measured.
    """
    points_a_nat = Outlook(spaces, (), goal, Recipe()).points_a_nat if scores else None
    best = {AS_IT_IS: _as_it_is(goal)}
    for family, ways in _families(spaces).items():
        plans = [_forecast(way, goal, points_a_nat) for way in ways]
        able = [plan for plan in plans if plan.recipe.steps and plan.loss < FORBIDDEN]
        if able:
            best[family] = min(able, key=lambda plan: (plan.overrun, plan.loss))
    if _FEW in best and _WHOLE in best and best[_FEW].recipe == best[_WHOLE].recipe:
        del best[_FEW]
    return best


def _as_it_is(goal: Goal) -> Forecast:
    rows = {limit.name: limit for limit in LIMITS}
    misses = tuple(Need(rows[each.limit], each.allowed, each.found) for each in goal.misses(goal.baseline))
    return Forecast(Recipe(), {}, 0.0, 0.0, misses)


@dataclass(frozen=True)
class _Kind:
    """A space, and the sites of it at which nothing is done."""

    space: Space
    held: frozenset[int]


def _families(spaces: Sequence[Space]) -> dict[str, list[_Kind]]:
    """The spaces that each family may use, and where."""
    plain = [space for space in spaces if space.numbers is None]
    rounded = [space for space in spaces if space.numbers is not None]
    whole = [space for space in rounded if _bits(space) >= _WHOLE_BITS]
    few = [space for space in rounded if space not in whole]
    return {
        **{name: [_only(space, kinds) for space in plain] for name, kinds in _IN_FLOAT.items()},
        _WHOLE: [_only(space, frozenset()) for space in whole],
        _FEW: [
            *(_only(each, names) for each in whole if (names := _rounding(each))),
            *(_only(each, frozenset()) for each in few),
        ],
        COMBINATION: [_Kind(space, frozenset()) for space in spaces],
    }


def _only(space: Space, techniques: frozenset[str]) -> _Kind:
    """The space in which no other technique does anything."""
    return _Kind(space, frozenset(place for place, site in enumerate(space.sites) if site.technique not in techniques))


def _bits(space: Space) -> int:
    """Of the weights where no site asks for fewer."""
    return int(getattr(space.numbers, "bits", _WHOLE_BITS))


def _rounding(space: Space) -> frozenset[str]:
    """The techniques that give a layer fewer bits."""
    sites = space.sites
    return frozenset(site.technique for site in sites if any(isinstance(each.effect, Bits) for each in site.options))


def _forecast(way: _Kind, goal: Goal, points_a_nat: float | None) -> Forecast:
    space = way.space
    solution = planned(space, Beliefs(), within_margin(goal, space), way.held)
    loss = solution.loss + space.lost
    fall = None if points_a_nat is None else points_a_nat * loss
    forecast = Forecast(space.recipe(solution.chosen, Recipe()), _figures(solution, goal), loss, fall)
    judged = dict(_judged(forecast, goal))
    misses = tuple(need for need in judged.values() if need is not None and _missed(need))
    unknown = dict.fromkeys(limit.title for limit, need in judged.items() if need is None)
    return replace(forecast, misses=misses, unknown=tuple(unknown))


def _figures(solution: Solution, goal: Goal) -> dict[str, float]:
    """What is predicted, the time on this host too where its ratio to the original's is."""
    latency = goal.baseline.measurement.latency_ms
    figures = dict(solution.figures)
    if goal.baseline.measurement.conditions.device == "host" and "latency_ratio" in figures and latency is not None:
        figures["latency_ms"] = figures["latency_ratio"] * latency.value
    return figures


def _judged(forecast: Forecast, goal: Goal) -> Iterator[tuple[Limit, Need | None]]:
    """Each limit with what is needed of it; None where nothing predicts that. Of a score its fall is limited."""
    budget = goal.budget
    for limit, allowed in budget.asked.items():
        if not limit.at_least:
            needed = forecast.figures.get(limit.field)
            yield limit, None if needed is None else Need(limit, allowed, needed)
    if budget.limits_score:
        allowed_fall = budget.max_drop if goal.allowed_drop is None else goal.allowed_drop
        known = forecast.fall is not None and allowed_fall is not None
        yield _DROP, Need(_DROP, allowed_fall or 0.0, forecast.fall or 0.0) if known else None


def _missed(need: Need) -> bool:
    """Sizes and times need room for what predictions are off by."""
    return need.needed > need.allowed * (1.0 if need.limit is _DROP else 1 - MARGIN) * (1 + 1e-9)
