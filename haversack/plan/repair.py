"""Repair: a plan brought within its bounds, and what it need not have done taken back, by moves of a few sites."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from haversack.plan.evaluator import Evaluator, Plans
from haversack.plan.problem import Numbers

_TRIED = 64
"""So many pairs of moves are evaluated exactly at a time."""
_MOVES = 400
_CHUNK = 2048
"""So many plans are evaluated at a time, and so many mixtures tried of a few moves."""
_MIXTURES = 24
_LEAST = 1e-12
"""A gain below this share of the loss's span is none."""


def excess(evaluator: Evaluator, sums: Numbers, bounds: Numbers) -> Numbers:
    """By how much rows lie above their bounds, as shares of their spans, added up."""
    over = np.maximum(sums - bounds, 0.0)
    return np.asarray((over / evaluator.spans).sum(-1))


def repaired(evaluator: Evaluator, plan: Plans, bounds: Numbers) -> Plans:
    """The plan after moves that each win most of the excess for what they lose, until there is none or none helps."""
    plan = plan.copy()
    for _ in range(4 * len(plan)):
        sums = evaluator.sums(evaluator.positions(plan[None]))[0]
        missed = float(excess(evaluator, sums, bounds))
        if missed == 0.0:
            break
        deltas = evaluator.deltas(plan)
        won = missed - excess(evaluator, sums + deltas, bounds)
        if won.max(initial=0.0) <= _LEAST * missed:
            break
        lost = np.maximum(deltas[:, 0] / evaluator.spans[0], 1e-9)
        move = int(np.where(won > _LEAST * missed, won / lost, -np.inf).argmax())
        plan[evaluator.moves.sites[move]] = evaluator.moves.options[move]
    return plan


def improved(evaluator: Evaluator, plan: Plans, bounds: Numbers, *, pairs: bool = True) -> Plans:
    """The plan after moves of one site, or of two at once, that each lower the loss and keep every bound."""
    plan = plan.copy()
    least = _LEAST * evaluator.spans[0]
    for _ in range(6 * len(plan)):
        sums = evaluator.sums(evaluator.positions(plan[None]))[0]
        deltas = evaluator.deltas(plan)
        lost = np.where((sums + deltas <= bounds).all(1), deltas[:, 0], np.inf)
        move = int(lost.argmin()) if len(lost) else -1
        if move >= 0 and lost[move] < -least:
            plan[evaluator.moves.sites[move]] = evaluator.moves.options[move]
            continue
        better = _pair(evaluator, plan, bounds, deltas) if pairs else None
        if better is None:
            break
        plan = better
    return plan


def _pair(evaluator: Evaluator, plan: Plans, bounds: Numbers, deltas: Numbers) -> Plans | None:
    """The plan with the best two moves that lower the loss and keep the bounds, of those promising by their sums."""
    sums = evaluator.sums(evaluator.positions(plan[None]))[0]
    lost = deltas[:, 0]
    helps = np.flatnonzero(lost < 0)
    helps = helps[np.argsort(lost[helps], kind="stable")][:_MOVES]
    saves = np.flatnonzero((deltas[:, np.isfinite(bounds)] < 0).any(1) & (lost < -lost.min(initial=0.0)))
    saves = saves[np.argsort(lost[saves], kind="stable")][:_MOVES]
    first, second = np.nonzero(lost[helps][:, None] + lost[saves] < -_LEAST * evaluator.spans[0])
    first, second = helps[first], saves[second]
    for row in np.flatnonzero(np.isfinite(bounds)):
        fits = deltas[first, row] + deltas[second, row] <= bounds[row] - sums[row]
        first, second = first[fits], second[fits]
    moves = evaluator.moves
    apart = moves.sites[first] != moves.sites[second]
    first, second = first[apart], second[apart]
    best = np.argsort(lost[first] + lost[second], kind="stable")[:_TRIED]
    plans = np.repeat(plan[None], len(best), axis=0)
    for chosen in (first[best], second[best]):
        plans[np.arange(len(best)), moves.sites[chosen]] = moves.options[chosen]
    return best_of(evaluator, plans, bounds, below=float(sums[0]) - _LEAST * evaluator.spans[0])


def best_of(evaluator: Evaluator, plans: Plans, bounds: Numbers, *, below: float = np.inf) -> Plans | None:
    """The plan of the least loss of those that keep the bounds and lose less than `below`, or None."""
    if not len(plans):
        return None
    sums = evaluator.sums(evaluator.positions(plans))
    losses = np.where((sums <= bounds).all(1), sums[:, 0], np.inf)
    best = int(losses.argmin())
    return plans[best] if losses[best] < below else None


def enumerated(evaluator: Evaluator, plan: Plans, offered: Mapping[int, Plans], bounds: Numbers) -> Plans:
    """The best plan by trying all mixtures of what these sites are offered, the first that loses least.

    It keeps the bounds, or where none does it is the one nearest to them.
    """
    counts = tuple(len(options) for options in offered.values())
    total = math.prod(counts)
    none = np.zeros(0, dtype=np.int64)
    touched = np.unique(np.concatenate([none, *(evaluator.visits[site].terms for site in offered)]))
    rows, first = np.unique(evaluator.row_of[touched], return_index=True)
    base = evaluator.positions(plan[None])
    rest = evaluator.sums(base)[0]
    if len(touched):
        rest[rows] -= np.add.reduceat(evaluator.flat[base[0, touched]], first)
    best, figure = plan, (np.inf, np.inf)
    for low in range(0, total, _CHUNK):
        numbers = np.arange(low, min(low + _CHUNK, total))
        plans, positions = np.repeat(plan[None], len(numbers), 0), np.repeat(base[:, touched], len(numbers), 0)
        for site, number in zip(offered, np.unravel_index(numbers, counts) if counts else (), strict=True):
            plans[:, site] = offered[site][number]
            visit = evaluator.visits[site]
            shifts = (plans[:, site] - plan[site])[:, None] * visit.strides
            positions[:, np.searchsorted(touched, visit.terms)] += shifts
        sums = np.repeat(rest[None], len(plans), axis=0)
        if len(touched):
            sums[:, rows] += np.add.reduceat(evaluator.flat[positions], first, axis=1)
        missed = excess(evaluator, sums, bounds)
        winner = np.lexsort((sums[:, 0], missed))[0]
        if (missed[winner], sums[winner, 0]) < figure:
            best, figure = plans[winner], (missed[winner], sums[winner, 0])
    return best


def mixed(evaluator: Evaluator, plan: Plans, bounds: Numbers, multipliers: Numbers) -> Plans:
    """The plan after all mixtures of a few moves were tried, again and again, of moves that lose little.

    What a move loses is told by the multipliers: it is next to nothing where plans are nearly equal. The first few are
    those that lose least; later ones are drawn, always the same.
    """
    random = np.random.default_rng(2)
    moves = evaluator.moves
    weights = multipliers.copy()
    weights[0] += 1.0
    lost = None
    for number in range(_MIXTURES):
        if lost is None:
            lost = evaluator.deltas(plan) @ weights
            lost = lost - lost.min(initial=0.0) + _LEAST * evaluator.spans[0]
        drawn = lost if number == 0 else lost * random.exponential(size=len(lost))
        own = plan[moves.sites] == moves.options
        order = np.argsort(np.where(own, np.inf, drawn), kind="stable")[: np.count_nonzero(~own)]
        after = enumerated(evaluator, plan, _core(evaluator, plan, order), bounds)
        if (after != plan).any():
            plan, lost = after, None
    return plan


def _core(evaluator: Evaluator, plan: Plans, order: Plans) -> dict[int, Plans]:
    """The plan's own options and those of the first moves, as long as there are few enough mixtures of them."""
    offered: dict[int, list[int]] = {}
    mixtures = 1
    for move in order.tolist():
        site, option = int(evaluator.moves.sites[move]), int(evaluator.moves.options[move])
        options = offered.get(site, [int(plan[site])])
        mixtures = mixtures // len(options) * (len(options) + 1) if site in offered else mixtures * 2
        if mixtures > _CHUNK:
            break
        offered[site] = [*options, option]
    return {site: np.array(options) for site, options in offered.items()}
