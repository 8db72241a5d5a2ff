"""Factors: a layer's weight as a product of smaller ones, each of them a plain layer.

`METHODS` names the ways; `factorized` writes a layer as the layers that one of them gives.
"""

from __future__ import annotations

from dataclasses import replace

from haversack.errors import RecipeError
from haversack.numerics.factors import cp, spatial, svd, tucker
from haversack.numerics.factors.geometry import Geometry
from haversack.numerics.factors.method import Factors, Method, Ranks
from haversack.numerics.factors.problem import Chain, Factor, Problem

METHODS = {each.name: each for each in (svd.METHOD, spatial.METHOD, tucker.METHOD, cp.METHOD)}


def fitting(geometry: Geometry) -> tuple[Method, ...]:
    """The ways that suit a layer: kernels of one pixel have no spatial structure, lines of pixels have no sides."""
    return tuple(method for method in METHODS.values() if method.suits(geometry))


def decomposed(problem: Problem, method: str, ranks: Ranks) -> Factors:
    """The factors that fit the inputs which a layer reads, or the plain ones where those lose less of its output.

    Raises RecipeError where a rank is below 1 or above the full one, which it names.
    """
    way = METHODS[method]
    full = way.full(problem.geometry)
    if len(ranks) != len(full) or not all(1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        raise RecipeError(
            f"{method} cannot have the rank {_said(ranks)}: the full rank of this layer is {_said(full)}.",
            mend=f"choose from 1 to {_said(full)}.",
        )
    found = way.decompose(problem, ranks)
    if problem.moment is None or not way.plain_may_win:
        return found
    plain = way.decompose(problem.without_inputs(), ranks)
    return min(found, plain, key=lambda factors: problem.error(way.compose(factors)))


def loss(problem: Problem, method: str, ranks: Ranks) -> float:
    """The share of the layer's output power that factors lose which fit the inputs; at most so much is lost."""
    way = METHODS[method]
    return problem.error(way.compose(way.decompose(problem, ranks)))


def factorized(problem: Problem, method: str, ranks: Ranks) -> Chain:
    """The layers that take the place of one, in order, with their numbers; the last one has the bias."""
    way, found = METHODS[method], decomposed(problem, method, ranks)
    layers, weights = way.layers(problem.geometry, ranks), way.weights(found, problem.geometry)
    *rest, last = (Factor(layer, weight.float()) for layer, weight in zip(layers, weights, strict=True))
    return (*rest, replace(last, bias=problem.bias_for(way.compose(found))))


def _said(ranks: Ranks) -> str:
    return " x ".join(map(str, ranks))
