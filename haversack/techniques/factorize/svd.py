"""The weight matrix as a thin one after a thin one; for convolutions: fewer filters, then a 1 x 1 that mixes them."""

from __future__ import annotations

import torch
from torch import Tensor

from haversack.calibration.least_squares import Problem, leading
from haversack.calibration.patches import Geometry
from haversack.model import Layer
from haversack.techniques._exchange import Ranks
from haversack.techniques.factorize.method import Factors, Method


def decompose(problem: Problem, ranks: Ranks) -> Factors:
    """The filters (rank, inputs, pixels) and the mixture (outputs, rank) that lose the least of the outputs.

    The outputs' principal axes give both at once (Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks",
    sec. 3.1); it is the SVD of the weight times the root of the inputs' second moment. Optimal for its rank.
    """
    flat = problem.flat
    basis = leading(problem.read(flat) @ flat.mT, ranks[0])
    return (basis.mT @ flat).view(-1, *problem.weight.shape[1:]), basis


def compose(factors: Factors) -> Tensor:
    """The weight that filters and mixture stand for."""
    filters, mixture = factors
    return torch.einsum("or,rip->oip", mixture, filters)


def layers(geometry: Geometry, ranks: Ranks) -> tuple[Layer, ...]:
    """The whole kernel with fewer filters, then one pixel."""
    return (
        geometry.piece(geometry.inputs, ranks[0], geometry.everywhere),
        geometry.piece(ranks[0], geometry.outputs, geometry.nowhere, last=True),
    )


def _full(geometry: Geometry) -> Ranks:
    return (min(geometry.outputs, geometry.inputs * geometry.pixels),)


def _ranks(geometry: Geometry, share: float) -> tuple[float, ...]:
    columns = geometry.inputs * geometry.pixels
    return (share * geometry.outputs * columns / (geometry.outputs + columns),)


def _weights(factors: Factors, geometry: Geometry) -> tuple[Tensor, ...]:
    filters, mixture = factors
    rank = len(filters)
    ones = (1,) * len(geometry.kernel)
    return filters.reshape(rank, geometry.inputs, *geometry.kernel), mixture.reshape(geometry.outputs, rank, *ones)


def _sides(problem: Problem) -> tuple[Tensor, ...]:
    return (problem.read(problem.flat) @ problem.flat.mT,)


METHOD = Method(
    name="svd",
    suits=lambda geometry: _full(geometry) > (1,),
    full=_full,
    ranks=_ranks,
    decompose=decompose,
    compose=compose,
    layers=layers,
    weights=_weights,
    sides=_sides,
    plain_may_win=False,
)
