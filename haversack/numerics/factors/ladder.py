"""Ladder: the ranks of a layer that are worth trying."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from haversack.numerics.factors.allocate import Choice
from haversack.numerics.factors.geometry import Geometry
from haversack.numerics.factors.method import Method, Ranks
from haversack.numerics.factors.problem import Problem, spectrum
from haversack.numerics.factors.ranks import energy_rank, vbmf_rank

_RUNGS = (0.8, 0.6, 0.45, 0.33, 0.24, 0.16)
"""Shares of a layer's numbers."""


def ladder(ways: Sequence[Method], geometry: Geometry, multiple: int) -> Iterator[Choice]:
    """Each way with ranks that are multiples, below the full ones, and hold ever smaller shares of the numbers."""
    for way in ways:
        full, met = way.full(geometry), set()
        for rung in _RUNGS:
            ranks = tuple(max(multiple, int(rank) // multiple * multiple) for rank in way.ranks(geometry, rung))
            if ranks not in met and all(rank < most for rank, most in zip(ranks, full, strict=True)):
                met.add(ranks)
                yield Choice(way.name, ranks, way.layers(geometry, ranks))


def by_rule(ways: Sequence[Method], problem: Problem, multiple: int, energy: float | None) -> Iterator[Choice]:
    """Each way with the one rank that holds the share `energy` of the output, rounded up.

    With None for the energy, it is the rank that stands out of the weights' noise.
    """
    for way in ways:
        full = way.full(problem.geometry)
        wanted = _energy_ranks(problem, way, energy) if energy is not None else _vbmf_ranks(problem, way)
        up = (max(1, -(-rank // multiple)) * multiple for rank in wanted)
        ranks = tuple(min(rank, most) for rank, most in zip(up, full, strict=True))
        if ranks:
            yield Choice(way.name, ranks, way.layers(problem.geometry, ranks))


def _energy_ranks(problem: Problem, way: Method, energy: float) -> Ranks:
    sides = way.sides(problem) if way.sides else ()
    return tuple(energy_rank(spectrum(side.product).numpy(), energy) for side in sides)


def _vbmf_ranks(problem: Problem, way: Method) -> Ranks:
    """The noise is the weight's own, so the inputs have no say."""
    sides = way.sides(problem.without_inputs()) if way.sides else ()
    found = []
    for side in sides:
        squares = spectrum(side.product).numpy().astype(np.float64)
        found.append(max(1, vbmf_rank(squares, len(squares), side.columns)))
    return tuple(found)
