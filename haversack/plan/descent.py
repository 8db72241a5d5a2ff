"""Descent: plans of little loss near given limits, by Lagrange multipliers and coordinate descent, many at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from haversack.plan.evaluator import Evaluator, Plans
from haversack.plan.problem import Numbers

_ROUNDS = 40
_STEPS = np.geomspace(1.5, 0.05, _ROUNDS)
"""How far the logarithm of a multiplier moves in a round, at most."""
_HASTE = 4.0
"""A row so much of its way off, as one in this many, moves its multiplier all of a step."""
_SWEEPS = 30
_TINY = 1e-300


def sweep(evaluator: Evaluator, plans: Plans, positions: Plans, weights: Numbers) -> bool:
    """Give every site of every plan in turn the option of the least weighted sum, in place. False: none changed.

    `weights` has a number for each plan and row. Of equal options the mildest is taken.
    """
    by_term = weights[:, evaluator.row_of]
    changed = False
    for site, visit in enumerate(evaluator.visits):
        before = plans[:, site]
        base = positions[:, visit.terms] - before[:, None] * visit.strides
        amounts = evaluator.flat[base[:, :, None] + visit.strides[:, None] * visit.options]
        totals = (by_term[:, visit.terms, None] * amounts).sum(1)
        after = totals.argmin(1)
        if (after != before).any():
            changed = True
            positions[:, visit.terms] = base + after[:, None] * visit.strides
            plans[:, site] = after
    return changed


def settle(evaluator: Evaluator, plans: Plans, weights: Numbers) -> Plans:
    """The plans after sweeps until nothing changes any more."""
    plans = plans.copy()
    positions = evaluator.positions(plans)
    for _ in range(_SWEEPS):
        if not sweep(evaluator, plans, positions, weights):
            break
    return plans


def starts(evaluator: Evaluator, count: int) -> Plans:
    """Plans to start from: nothing done, everything done, then random ones, always the same."""
    random = np.random.default_rng(0)
    drawn = random.integers(0, np.maximum(evaluator.options, 1), (count, len(evaluator.options)))
    drawn[0] = 0
    drawn[1:2] = evaluator.options - 1
    return drawn


def least(evaluator: Evaluator, row_weights: Numbers, count: int = 16) -> Plans:
    """The plan of the least weighted sum of rows, over several starts."""
    weights = np.repeat(row_weights[None], count, axis=0)
    plans = settle(evaluator, starts(evaluator, count), weights)
    totals = evaluator.sums(evaluator.positions(plans)) @ row_weights
    best: Plans = plans[int(totals.argmin())]
    return best


def descend(evaluator: Evaluator, bounds: Numbers, begun: Plans) -> tuple[Plans, Plans, Numbers]:
    """For each plan the one of least loss met within its bounds, or where none was met the one that misses them least.

    `bounds` has a number for each plan and row. A row above its bound gets a higher multiplier, one below a lower one.
    The last plans and multipliers
    are returned as well: such plans may lie above a bound, and lose little for that.
    """
    plans, positions = begun.copy(), evaluator.positions(begun)
    limited = np.isfinite(bounds)
    ends = np.where(limited, bounds, 0.0)
    room = np.abs(evaluator.sums(evaluator.positions(np.zeros_like(plans))) - ends)
    room = np.maximum(room, 1e-3 * evaluator.spans) / _HASTE
    multipliers = _first_multipliers(evaluator, limited)
    kept, best = plans.copy(), np.full((2, len(plans)), np.inf)
    for step in _STEPS:
        weights = multipliers.copy()
        weights[:, 0] += 1.0
        sweep(evaluator, plans, positions, weights)
        sums = evaluator.sums(positions)
        over = np.where(limited, sums - ends, 0.0)
        missed = (np.maximum(over, 0.0) / evaluator.spans).sum(1)
        better = (missed < best[0]) | ((missed == best[0]) & (sums[:, 0] < best[1]))
        kept[better] = plans[better]
        best[:, better] = missed[better], sums[better, 0]
        multipliers *= np.exp(step * np.clip(over / room, -1.0, 1.0))
    return kept, plans, multipliers


def _first_multipliers(evaluator: Evaluator, limited: NDArray[np.bool_]) -> Numbers:
    """Over four decades from plan to plan, in an order that has nothing to do with that of the starts.

    A row that no plan changes has none: it would grow without end.
    """
    scales = np.geomspace(1e-3, 1e1, len(limited))[np.random.default_rng(1).permutation(len(limited))]
    shares = scales[:, None] / np.maximum(1, limited.sum(1))[:, None]
    moved = evaluator.spans > _TINY
    spans = np.where(moved, evaluator.spans, 1.0)
    return np.where(limited & moved, np.maximum(shares * (evaluator.spans[0] / spans), _TINY), 0.0)
