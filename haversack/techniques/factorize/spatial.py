"""A kernel as a column of pixels after a row of pixels (Jaderberg et al. 2014; Tai et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from haversack.calibration.least_squares import Problem, leading
from haversack.calibration.patches import Geometry
from haversack.model import Layer
from haversack.techniques._exchange import Ranks
from haversack.techniques.factorize.method import Factors, Method


def decompose(problem: Problem, ranks: Ranks) -> Factors:
    """The columns (rank, inputs, height) and the rows (outputs, rank, width).

    The columns are chosen as if pixels beside each other had nothing in common, which an SVD solves; the rows are then
    the best for what those columns really give, by least squares.
    """
    matrix = _unfolded(problem)
    basis = leading(matrix @ _column_moment(problem) @ matrix.mT, ranks[0])
    columns = (basis.mT @ matrix).view(ranks[0], problem.geometry.inputs, -1)
    width = problem.geometry.kernel[1]
    features = torch.einsum("riy,xz->rxiyz", columns, torch.eye(width, dtype=columns.dtype))
    rows = problem.refitted(features.reshape(ranks[0] * width, -1))
    return columns, rows.view(-1, ranks[0], width)


def compose(factors: Factors) -> Tensor:
    """The weight that columns and rows stand for."""
    columns, rows = factors
    return torch.einsum("riy,orx->oiyx", columns, rows).flatten(2)


def layers(geometry: Geometry, ranks: Ranks) -> tuple[Layer, ...]:
    """A kernel that is high, then one that is wide."""
    return (
        geometry.piece(geometry.inputs, ranks[0], (True, False)),
        geometry.piece(ranks[0], geometry.outputs, (False, True), last=True),
    )


def _unfolded(problem: Problem) -> Tensor:
    """The weight as a matrix (outputs * width, inputs * height)."""
    height, width = problem.geometry.kernel
    weight = problem.weight.view(len(problem.weight), -1, height, width)
    return weight.permute(0, 3, 1, 2).reshape(len(weight) * width, -1)


def _column_moment(problem: Problem) -> Tensor:
    """The second moment of what a column reads (inputs * height), averaged over the kernel's width."""
    inputs, (height, width) = problem.geometry.inputs, problem.geometry.kernel
    if problem.moment is None:
        return torch.eye(inputs * height, dtype=problem.weight.dtype)
    # One diagonal of the pixels: those in the same column of the kernel.
    moment = problem.moment.view(inputs * height, width, inputs * height, width)
    return moment.diagonal(dim1=1, dim2=3).mean(-1)


def _full(geometry: Geometry) -> Ranks:
    height, width = geometry.kernel
    return (min(geometry.outputs * width, geometry.inputs * height),)


def _ranks(geometry: Geometry, share: float) -> tuple[float, ...]:
    height, width = geometry.kernel
    whole = geometry.outputs * geometry.inputs * geometry.pixels
    return (share * whole / (geometry.inputs * height + geometry.outputs * width),)


def _weights(factors: Factors, _: Geometry) -> tuple[Tensor, ...]:
    columns, rows = factors
    return columns.unsqueeze(3), rows.unsqueeze(2)


def _sides(problem: Problem) -> tuple[Tensor, ...]:
    matrix = _unfolded(problem)
    return (matrix @ _column_moment(problem) @ matrix.mT,)


METHOD = Method(
    name="spatial",
    suits=lambda geometry: len(geometry.kernel) == 2 and min(geometry.kernel) > 1,
    full=_full,
    ranks=_ranks,
    decompose=decompose,
    compose=compose,
    layers=layers,
    weights=_weights,
    sides=_sides,
)
