"""Evaluator: many plans, and all moves from one plan, evaluated at once off a problem's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from haversack.plan.problem import Numbers, PlanProblem, Term

Plans = NDArray[np.int64]
"""Chosen options (plans, sites)."""
LOSS = "loss"
ROUNDING = 1e-12
"""The share of a limit by which sums of the same numbers may differ with their order."""
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Visit:
    """The terms that one site is part of, and how far apart the amounts of its neighbouring options are in each."""

    terms: Plans
    strides: Plans
    options: Plans


@dataclass(frozen=True, eq=False)
class Moves:
    """Every option of every site as a move, and the entries of the tables that change with it."""

    sites: Plans
    options: Plans
    first: Plans
    """The first move of each site."""
    terms: Plans
    strides: Plans
    owners: Plans
    """The move that each entry belongs to."""


class Evaluator:
    """A problem's tables as one flat array of amounts. A row is a sum of terms: the loss first, then every moment.

    A term is looked up by its offset and a stride a site, so a site's options lie at equal distances. Amounts that are
    not finite stand as ones far above all others.
    """

    def __init__(self, problem: PlanProblem) -> None:
        self.options = np.array(problem.options, dtype=np.int64)
        rows: list[tuple[Term, ...]] = [tuple(problem.losses)]
        scales = [1.0]
        self.rows = {LOSS: slice(0, 1)}
        self.fixed = {LOSS: 0.0}
        for name, measure in problem.measures.items():
            moments = measure.moments or ((),)
            self.rows[name] = slice(len(rows), len(rows) + len(moments))
            self.fixed[name] = measure.fixed
            rows.extend(moments)
            scales.extend([measure.factor] * len(moments))
        self._flatten(rows, scales)
        self._list_visits()
        self._list_moves()

    def _flatten(self, rows: Sequence[Sequence[Term]], scales: Sequence[float]) -> None:
        """Each row begins with a term of nothing, so that none is empty."""
        nothing = Term((), np.zeros(()))
        terms = [term for row in rows for term in (nothing, *row)]
        lengths = [len(row) + 1 for row in rows]
        scaled = np.repeat(scales, lengths)
        amounts = [np.asarray(term.amounts, float).ravel() * scale for term, scale in zip(terms, scaled, strict=True)]
        self.flat = _finite(np.concatenate(amounts))
        self.offsets = np.array([0, *accumulate(len(part) for part in amounts)][:-1])
        self.starts = np.array([0, *accumulate(lengths)][:-1])
        self.row_of = np.repeat(np.arange(len(rows)), lengths)
        self.deepest = max(len(term.sites) for term in terms)
        self.sites_of = np.zeros((len(terms), self.deepest), dtype=np.int64)
        self.strides_of = np.zeros_like(self.sites_of)
        for number, term in enumerate(terms):
            for axis, site in enumerate(term.sites):
                self.sites_of[number, axis] = site
                self.strides_of[number, axis] = np.prod(term.amounts.shape[axis + 1 :], dtype=np.int64)
        self.spans = self._spans(amounts)

    def _spans(self, amounts: Sequence[Numbers]) -> Numbers:
        """How far each row can go from its least to its most, at most, by its finite amounts."""
        finite = [part[np.isfinite(part)] for part in amounts]
        widths = [float(part.max() - part.min()) if len(part) else 0.0 for part in finite]
        return np.maximum(np.add.reduceat(np.array(widths), self.starts), _TINY)

    def _list_visits(self) -> None:
        lists: list[list[tuple[int, int]]] = [[] for _ in self.options]
        for term, axis in zip(*np.nonzero(self.strides_of), strict=True):
            lists[self.sites_of[term, axis]].append((int(term), int(self.strides_of[term, axis])))
        pairs = [np.array(entries, dtype=np.int64).reshape(-1, 2) for entries in lists]
        self.visits = [
            Visit(pair[:, 0], pair[:, 1], np.arange(count)) for pair, count in zip(pairs, self.options, strict=True)
        ]

    def _list_moves(self) -> None:
        sites = np.repeat(np.arange(len(self.options)), self.options)
        first = np.concatenate(([0], np.cumsum(self.options)[:-1])).astype(np.int64)[: len(self.options)]
        options = np.arange(len(sites)) - first[sites]
        touching = np.array([len(visit.terms) for visit in self.visits], dtype=np.int64)
        empty = [np.zeros(0, dtype=np.int64)]
        self.moves = Moves(
            sites,
            options,
            first,
            np.concatenate([np.tile(visit.terms, len(visit.options)) for visit in self.visits] or empty),
            np.concatenate([np.tile(visit.strides, len(visit.options)) for visit in self.visits] or empty),
            np.repeat(np.arange(len(sites)), touching[sites] if len(sites) else empty[0]),
        )

    def bounds(self, limits: Mapping[str, float]) -> Numbers:
        """The most that each row may be, with room for rounding; infinite where nothing limits it."""
        bounds = np.full(len(self.starts), np.inf)
        for name, limit in limits.items():
            bounds[self.rows[name]] = limit - self.fixed[name] + ROUNDING * max(1.0, abs(limit))
        return bounds

    def positions(self, plans: Plans) -> Plans:
        """Where in the flat array each plan's amount of each term stands (plans, terms)."""
        positions = np.repeat(self.offsets[None], len(plans), axis=0)
        for axis in range(self.deepest):
            positions += plans[:, self.sites_of[:, axis]] * self.strides_of[:, axis]
        return positions

    def sums(self, positions: Plans) -> Numbers:
        """Each plan's rows (plans, rows)."""
        return np.add.reduceat(self.flat[positions], self.starts, axis=1)

    def deltas(self, plan: Plans) -> Numbers:
        """By how much every row changes with every move from one plan (moves, rows)."""
        moves = self.moves
        before = self.positions(plan[None])[0][moves.terms]
        site_options = moves.options - plan[moves.sites]
        after = before + moves.strides * site_options[moves.owners]
        cells = moves.owners * len(self.starts) + self.row_of[moves.terms]
        size = len(moves.sites) * len(self.starts)
        changed = np.bincount(cells, weights=self.flat[after] - self.flat[before], minlength=size)
        return np.asarray(changed, float).reshape(len(moves.sites), len(self.starts))


def _finite(flat: Numbers) -> Numbers:
    """The amounts, with ones that are not finite far above what any sum of the others can be."""
    finite = np.isfinite(flat)
    if finite.all():
        return flat
    return np.where(finite, flat, 1e3 * (1.0 + np.abs(flat[finite]).max(initial=0.0) * min(len(flat), 1000)))
