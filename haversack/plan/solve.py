"""Solve: the least loss under all limits at once, what each limit costs, and the least that a limit can be.

Lagrange multipliers, one for each row that has a limit, turn the limits into prices; coordinate descent over the sites
finds what is best at these prices; the multipliers follow by how far the rows lie off. This runs for several starts at
once. The best few plans are brought within the limits, and what they need not have done is taken back. Where there are
only few plans, all are tried. The same problem and limits always give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from haversack.errors import BudgetError
from haversack.plan.descent import descend, least, starts
from haversack.plan.evaluator import LOSS, ROUNDING, Evaluator, Plans
from haversack.plan.problem import Measure, Numbers, PlanProblem
from haversack.plan.repair import enumerated, excess, improved, mixed, repaired

_STARTS = 16
_FEW = 1 << 16
"""Up to so many plans are all tried."""
_REPAIRED, _PAIRED = 32, 3
"""So many plans are repaired, and so many of these improved by moves of two sites."""
_LOOSER = 0.01
_HALVINGS = 14
_CLOSE = 1e-3
_REACHES = 5


@dataclass(frozen=True)
class Solution:
    """One option for each site, with its loss and figures as the problem tells them."""

    chosen: tuple[int, ...]
    loss: float
    figures: dict[str, float]
    feasible: bool
    """All limits are kept, to the rounding of a sum. If not, no plan was met that keeps them; this one is near."""
    prices: dict[str, float] = field(default_factory=dict)
    """By how much the loss falls when a limit is 1 % looser. Empty where they were not asked for."""


def solve(problem: PlanProblem, limits: Mapping[str, float], *, margin: float = 0.0, priced: bool = False) -> Solution:
    """The plan of the least loss at which every figure is at most its limit; `loss` can have a limit as well.

    Every limit is taken as tighter by `margin`, a share of it. Raises BudgetError for a limit that nothing predicts.
    """
    tight = {name: limit - margin * abs(limit) for name, limit in limits.items()}
    _checked(problem, tight)
    evaluator = Evaluator(problem)
    if not priced or not tight:
        return _solution(problem, tight, _plans(evaluator, [tight])[0])
    looser = [{**tight, name: tight[name] + _LOOSER * abs(tight[name])} for name in tight]
    plan, *others = _plans(evaluator, [tight, *looser])
    plan = _first(evaluator, np.array([plan, *others]), evaluator.bounds(tight), 1)[0]
    solution = _solution(problem, tight, plan)
    prices = _prices(evaluator, solution, dict(zip(tight, zip(looser, others, strict=True), strict=True)))
    return Solution(solution.chosen, solution.loss, solution.figures, solution.feasible, prices)


def frontier(
    problem: PlanProblem, limits: Mapping[str, float], measures: Sequence[str], points: int = 9
) -> list[Solution]:
    """Up to `points` solutions within `limits`, the least loss first, none beaten by another in loss and `measures`.

    They are solved for limits on `measures` at equal ratios from what the least loss takes to the least there is.
    """
    _checked(problem, {**limits, **dict.fromkeys(measures, math.inf)})
    evaluator = Evaluator(problem)
    best = _solution(problem, limits, _plans(evaluator, [limits])[0])
    if not best.feasible or points < 2 or not measures:
        return [best] if best.feasible else []
    most = {name: _figure(best, name) for name in measures}
    ends = {name: _least(problem, name, limits)[0] for name in measures}
    reach = _reach(evaluator, limits, most, ends)
    levels = [
        {name: _between(most[name], ends[name], reach * step / (points - 1)) for name in measures}
        for step in range(1, points)
    ]
    bounded = [_tighter(limits, level) for level in levels]
    plans = _plans(evaluator, bounded)
    solutions = [best, *(_solution(problem, limits, plan) for plan in plans)]
    return _unbeaten([solution for solution in solutions if solution.feasible], measures)


def cheapest(problem: PlanProblem, measure: str) -> float:
    """The least that the measure can be over all plans; `loss` is one as well."""
    return _least(problem, measure, {})[0]


def least_relaxation(problem: PlanProblem, limits: Mapping[str, float]) -> dict[str, float]:
    """For each limit the least value at which the others can be kept; infinite where no value of it alone helps."""
    _checked(problem, limits)
    needed = {}
    for name in limits:
        others = {other: limit for other, limit in limits.items() if other != name}
        figure, feasible = _least(problem, name, others)
        needed[name] = figure if feasible else math.inf
    return needed


def _checked(problem: PlanProblem, limits: Mapping[str, float]) -> None:
    for name, limit in limits.items():
        if name != LOSS and name not in problem.measures:
            raise BudgetError(
                f"nothing predicts {name}", mend=f"limit one of {', '.join(sorted((LOSS, *problem.measures)))}"
            )
        if math.isnan(limit):
            raise BudgetError(f"the limit of {name} is not a number", mend="give a number")


def _solution(problem: PlanProblem, limits: Mapping[str, float], plan: Plans) -> Solution:
    chosen = tuple(int(option) for option in plan)
    solution = Solution(chosen, float(problem.loss(chosen)), problem.figures(chosen), feasible=True)
    kept = all(_figure(solution, name) <= limit + ROUNDING * max(1.0, abs(limit)) for name, limit in limits.items())
    return solution if kept else Solution(chosen, solution.loss, solution.figures, feasible=False)


def _figure(solution: Solution, name: str) -> float:
    """Limits on the loss are on the objective, whatever a measure is called."""
    return solution.loss if name == LOSS else solution.figures[name]


def _plans(evaluator: Evaluator, limits: Sequence[Mapping[str, float]]) -> list[Plans]:
    """The best plan for each set of limits. What one set leads to is tried for the others too."""
    bounds = np.array([evaluator.bounds(each) for each in limits])
    if math.prod(evaluator.options.tolist()) <= _FEW:
        offered = {site: np.arange(count) for site, count in enumerate(evaluator.options)}
        none = np.zeros_like(evaluator.options)
        return [enumerated(evaluator, none, offered, one) for one in bounds]
    if not np.isfinite(bounds).any():
        return [least(evaluator, np.eye(1, len(evaluator.starts))[0])] * len(bounds)
    begun = np.tile(starts(evaluator, _STARTS), (len(bounds), 1))
    descended = descend(evaluator, np.repeat(bounds, _STARTS, axis=0), begun)
    parts = zip(*(np.split(part, len(bounds)) for part in descended), strict=True)
    return [_best(evaluator, one, *part) for one, part in zip(bounds, parts, strict=True)]


def _best(evaluator: Evaluator, bounds: Numbers, kept: Plans, last: Plans, multipliers: Numbers) -> Plans:
    """The best plan after repair of those that are nearest to the bounds and lose least.

    Mixtures are tried around it, and around the plan that is best at the multipliers, which may miss a bound.
    """
    own = multipliers[_order(evaluator, kept, bounds)[0]].copy()
    plans = _first(evaluator, np.concatenate([kept, last]), bounds, _REPAIRED)
    plans = np.array([improved(evaluator, repaired(evaluator, one, bounds), bounds, pairs=False) for one in plans])
    plans = np.array([improved(evaluator, one, bounds) for one in _first(evaluator, plans, bounds, _PAIRED)])
    priced = evaluator.sums(evaluator.positions(last)) @ own + evaluator.sums(evaluator.positions(last))[:, 0]
    around = [_first(evaluator, plans, bounds, 1)[0], last[int(priced.argmin())]]
    plans = np.array([improved(evaluator, mixed(evaluator, one, bounds, own), bounds) for one in around])
    best: Plans = _first(evaluator, plans, bounds, 1)[0]
    return best


def _first(evaluator: Evaluator, plans: Plans, bounds: Numbers, count: int) -> Plans:
    """The first few of the plans, each once."""
    plans = np.unique(plans, axis=0)
    ordered: Plans = plans[_order(evaluator, plans, bounds)]
    return ordered[:count]


def _order(evaluator: Evaluator, plans: Plans, bounds: Numbers) -> Plans:
    """The numbers of the plans: those within the bounds by their loss, then the others by what they miss."""
    sums = evaluator.sums(evaluator.positions(plans))
    return np.lexsort((sums[:, 0], excess(evaluator, sums, bounds)))


def _prices(
    evaluator: Evaluator, solution: Solution, looser: Mapping[str, tuple[Mapping[str, float], Plans]]
) -> dict[str, float]:
    """What each looser limit wins; a plan that none of them led to is reached from the solution itself."""
    prices = {}
    chosen = np.array(solution.chosen, dtype=np.int64)
    loss = float(evaluator.sums(evaluator.positions(chosen[None]))[0, 0])
    for name, (limits, plan) in looser.items():
        bounds = evaluator.bounds(limits)
        own = improved(evaluator, chosen, bounds)
        plans = np.array([plan, own])
        sums = evaluator.sums(evaluator.positions(plans[_order(evaluator, plans, bounds)]))
        kept = excess(evaluator, sums[0], bounds) == 0.0
        prices[name] = max(0.0, loss - float(sums[0, 0])) if kept and solution.feasible else math.nan
    return prices


def _least(problem: PlanProblem, name: str, limits: Mapping[str, float]) -> tuple[float, bool]:
    """The least figure under the limits, and whether they can be kept at all.

    A sum is minimised as a loss is. Of a largest moment the sum of all is, and then the limit on it is halved down.
    """
    _checked(problem, {**limits, name: math.inf})
    measure = Measure((problem.losses,)) if name == LOSS else problem.measures[name]
    moments = measure.moments or ((),)
    terms = tuple(term for moment in moments for term in moment)
    swapped = PlanProblem(problem.options, terms, {**problem.measures, _WAS_LOSS: Measure((problem.losses,))})
    renamed = {_WAS_LOSS if other == LOSS else other: limit for other, limit in limits.items()}
    evaluator = Evaluator(swapped)
    plan = _plans(evaluator, [renamed])[0]
    figure, feasible = measure.of(plan.tolist()), _solution(swapped, renamed, plan).feasible
    if len(moments) == 1 or not feasible:
        return figure, feasible
    floor = _floor(evaluator, measure, evaluator.rows[name])
    for _ in range(_HALVINGS):
        if figure - floor <= _CLOSE * abs(figure):
            break
        middle = (figure + floor) / 2
        tighter = _tighter(renamed, {name: middle})
        plan = _plans(evaluator, [tighter])[0]
        if _solution(swapped, tighter, plan).feasible:
            figure = measure.of(plan.tolist())
        else:
            floor = middle
    return figure, True


_WAS_LOSS = "loss of the problem"


def _floor(evaluator: Evaluator, measure: Measure, rows: slice) -> float:
    """The largest of the least that each moment can be by itself: the measure is not below it."""
    floors = []
    for row in range(rows.start, rows.stop):
        weights = np.zeros(len(evaluator.starts))
        weights[row] = 1.0
        plan = least(evaluator, weights)
        floors.append(float(evaluator.sums(evaluator.positions(plan[None]))[0, row]))
    return measure.fixed + max(floors)


def _tighter(limits: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    both = {name: min(limits.get(name, math.inf), limit) for name, limit in more.items()}
    return {**limits, **both}


def _between(most: float, least_of_all: float, share: float) -> float:
    """At equal ratios where both are above zero, else at equal steps."""
    if most > 0 and least_of_all > 0:
        return float(most * (least_of_all / most) ** share)
    return most + (least_of_all - most) * share


def _reach(
    evaluator: Evaluator, limits: Mapping[str, float], most: Mapping[str, float], ends: Mapping[str, float]
) -> float:
    """How far all measures can go together from the most to their ends, as a share."""
    if len(most) == 1:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_REACHES):
        middle = (low + high) / 2
        level = {name: _between(most[name], ends[name], middle) for name in most}
        bounds = evaluator.bounds(_tighter(limits, level))
        sums = evaluator.sums(evaluator.positions(_plans(evaluator, [_tighter(limits, level)])[0][None]))
        low, high = (middle, high) if (sums <= bounds).all() else (low, middle)
    return low


def _unbeaten(solutions: Sequence[Solution], measures: Sequence[str]) -> list[Solution]:
    """The solutions that no other one beats in the loss and the measures, each once, the least loss first."""
    values = {(one.loss, *(_figure(one, name) for name in measures)): one for one in reversed(solutions)}
    unbeaten = [
        mine
        for mine in values
        if not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in values)
    ]
    return [values[value] for value in sorted(unbeaten)]
