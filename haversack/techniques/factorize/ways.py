"""Ways: a layer's weight as a product of smaller ones, each of them a plain layer, and the ranks that are worth trying.

`METHODS` names the ways; `factorized` writes a layer as the layers that one of them gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from haversack.calibration.least_squares import Problem, spectrum
from haversack.calibration.patches import Geometry
from haversack.errors import RecipeError
from haversack.techniques._exchange import Choice, Ranks
from haversack.techniques._exchange.sites import Replacement
from haversack.techniques.factorize import cp, spatial, svd, tucker
from haversack.techniques.factorize.method import Factors, Method

Numbers = NDArray[np.float64]


def energy_rank(squares: Numbers, share: float) -> int:
    """The fewest components that hold `share` of the sum of the squared singular values, largest first; at least 1."""
    held = np.cumsum(squares)
    return 1 if held[-1] <= 0 else min(len(held), int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1)


METHODS = {each.name: each for each in (svd.METHOD, spatial.METHOD, tucker.METHOD, cp.METHOD)}


def fitting(geometry: Geometry) -> tuple[Method, ...]:
    """The ways that suit a layer: kernels of one pixel have no spatial structure, lines of pixels have no sides."""
    return tuple(method for method in METHODS.values() if method.suits(geometry))


def decomposed(problem: Problem, method: str, ranks: Ranks) -> Factors:
    """The factors that fit the inputs which a layer reads, or the plain ones where those lose less of its output.

    Raises RecipeError where a rank is below 1 or above the full one, which it names.
    """
    way = METHODS[method]
    check_ranks(problem.geometry, method, ranks)
    found = way.decompose(problem, ranks)
    if problem.moment is None or not way.plain_may_win:
        return found
    plain = way.decompose(problem.without_inputs(), ranks)
    return min(found, plain, key=lambda factors: problem.error(way.compose(factors)))


def check_ranks(geometry: Geometry, method: str, ranks: Ranks) -> None:
    """Raises RecipeError where a rank is below 1 or above the full one, which it names."""
    full = METHODS[method].full(geometry)
    if len(ranks) != len(full) or not all(1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        raise RecipeError(
            f"{method} cannot have the rank {_said(ranks)}: the full rank of this layer is {_said(full)}.",
            mend=f"choose from 1 to {_said(full)}.",
        )


def loss(problem: Problem, method: str, ranks: Ranks) -> float:
    """The share of the layer's output power that factors lose which fit the inputs; at most so much is lost."""
    way = METHODS[method]
    return problem.error(way.compose(way.decompose(problem, ranks)))


def composed(problem: Problem, choice: Choice) -> Tensor:
    """The weight (outputs, inputs, pixels) that a choice's factors stand for, which fit the inputs."""
    way = METHODS[choice.method]
    return way.compose(way.decompose(problem, choice.ranks))


def factorized(problem: Problem, method: str, ranks: Ranks) -> Replacement:
    """The layers that take the place of one, with their numbers; the last one has the bias."""
    way, factors = METHODS[method], decomposed(problem, method, ranks)
    weights = way.weights(factors, problem.geometry)
    state = {f"{place}.weight": weight.float() for place, weight in enumerate(weights)}
    bias = problem.bias_for(way.compose(factors))
    state |= {} if bias is None else {f"{len(weights) - 1}.bias": bias}
    return Replacement(way.layers(problem.geometry, ranks), state)


def _said(ranks: Ranks) -> str:
    return " x ".join(map(str, ranks))


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


def by_energy(ways: Sequence[Method], problem: Problem, multiple: int, energy: float) -> Iterator[Choice]:
    """Each way with the one rank that holds the share `energy` of the output, rounded up."""
    for way in ways:
        full = way.full(problem.geometry)
        up = (max(1, -(-rank // multiple)) * multiple for rank in _energy_ranks(problem, way, energy))
        ranks = tuple(min(rank, most) for rank, most in zip(up, full, strict=True))
        if ranks:
            yield Choice(way.name, ranks, way.layers(problem.geometry, ranks))


def _energy_ranks(problem: Problem, way: Method, energy: float) -> Ranks:
    sides = way.sides(problem) if way.sides else ()
    return tuple(energy_rank(spectrum(side).numpy(), energy) for side in sides)
