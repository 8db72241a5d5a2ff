"""A kernel as a sum of rank-one kernels: 1 x 1 in, one kernel a channel, 1 x 1 out (CP; Lebedev et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from haversack.calibration.least_squares import Problem, root
from haversack.calibration.patches import Geometry
from haversack.model import Layer
from haversack.techniques._exchange import Ranks
from haversack.techniques.factorize.method import Factors, Method

_SWEEPS = 20
_PENALTY = 1e-3
"""How dear the factors' squared norms are, where the mean component is made to have norm 1."""


def decompose(problem: Problem, ranks: Ranks) -> Factors:
    """The way in (rank, inputs), a kernel a channel (rank, pixels) and the way out (outputs, rank).

    Inputs are made white first; the way out is fitted anew to what the inputs really are. Best approximations of a
    given rank need not exist: components grow without bound and cancel each other, and fine-tuning then fails
    (Phan et al. 2020). A price on the factors' norms keeps them bounded.
    """
    root_of, inverse = root(problem.channel_moment())
    white = torch.einsum("oip,ij->ojp", problem.weight, root_of)
    if ranks == _full(problem.geometry):
        way_out, way_in, kernels = _largest(white, ranks[0])
    else:
        way_out, way_in, kernels = stable(white, ranks[0])
    way_in = way_in.mT @ inverse
    if ranks != _full(problem.geometry):
        way_out = _refitted(problem, way_in, kernels.mT, way_out)
    return way_in, kernels.mT, way_out


def stable(tensor: Tensor, rank: int, penalty: float = _PENALTY, sweeps: int = _SWEEPS) -> tuple[Tensor, ...]:
    """Three factors (size, rank) of a 3-way tensor by alternating least squares with a price on their norms.

    What is made small is |tensor - factors|^2 / s^2 + penalty * (sum of the factors' squared norms), s being the norm
    that each component would have if all were alike; so the norms cannot exceed what the start costs over the penalty.
    """
    scale = float(tensor.norm()) / rank**0.5
    if scale == 0:
        return _largest(tensor, rank)
    unit = tensor / scale
    factors = list(_balanced(_largest(unit, rank)))
    for _ in range(sweeps):
        for mode in range(3):
            factors[mode] = _solved(unit, factors, mode, penalty)
        factors = list(_balanced(tuple(factors)))
    return factors[0] * scale, factors[1], factors[2]


def compose(factors: Factors) -> Tensor:
    """The weight that the three stand for."""
    way_in, kernels, way_out = factors
    return torch.einsum("or,ri,rp->oip", way_out, way_in, kernels)


def layers(geometry: Geometry, ranks: Ranks) -> tuple[Layer, ...]:
    """As many channels as components, a kernel of its own for each, and out again."""
    rank = ranks[0]
    return (
        geometry.piece(geometry.inputs, rank, geometry.nowhere),
        geometry.piece(rank, rank, geometry.everywhere, groups=rank),
        geometry.piece(rank, geometry.outputs, geometry.nowhere, last=True),
    )


def _largest(tensor: Tensor, rank: int) -> tuple[Tensor, ...]:
    """The largest components of the pixels' own SVDs: a start that is deterministic, and exact at full rank."""
    left, values, right = torch.linalg.svd(tensor.permute(2, 0, 1), full_matrices=False)
    pixel, place = torch.unravel_index(values.flatten().argsort(descending=True, stable=True)[:rank], values.shape)
    kernels = torch.nn.functional.one_hot(pixel, len(values)).to(tensor.dtype).mT
    return left[pixel, :, place].mT * values[pixel, place], right[pixel, place].mT, kernels


def _solved(tensor: Tensor, factors: list[Tensor], mode: int, penalty: float) -> Tensor:
    """The best factor of one mode while the others stay."""
    first, second = (factor for place, factor in enumerate(factors) if place != mode)
    product = (first.mT @ first) * (second.mT @ second)
    wanted = ("oip,ir,pr->or", "oip,or,pr->ir", "oip,or,ir->pr")[mode]
    right = torch.einsum(wanted, tensor, first, second)
    price = penalty * torch.eye(len(product), dtype=product.dtype)
    solution: Tensor = torch.linalg.solve(product + price, right.mT)
    return solution.mT


def _balanced(factors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same components, their norm spread evenly over the three factors: no other spread costs less."""
    norms = [factor.norm(dim=0).clamp_min(1e-30) for factor in factors]
    even = (norms[0] * norms[1] * norms[2]) ** (1 / 3)
    return tuple(factor * (even / norm) for factor, norm in zip(factors, norms, strict=True))


def _refitted(problem: Problem, way_in: Tensor, kernels: Tensor, start: Tensor) -> Tensor:
    """The way out that fits the inputs, pulled towards `start` so that it stays bounded too."""
    features = torch.einsum("ri,rp->rip", way_in, kernels).flatten(1)
    read = problem.read(features)
    curvature = read @ features.mT
    pull = _PENALTY * curvature.diagonal().mean().clamp_min(1e-30) * torch.eye(len(curvature), dtype=curvature.dtype)
    missed = read @ problem.flat.mT - curvature @ start.mT
    change: Tensor = torch.linalg.solve(curvature + pull, missed)
    return start + change.mT


def _full(geometry: Geometry) -> Ranks:
    return (geometry.pixels * min(geometry.inputs, geometry.outputs),)


def _ranks(geometry: Geometry, share: float) -> tuple[float, ...]:
    whole = geometry.outputs * geometry.inputs * geometry.pixels
    return (share * whole / (geometry.outputs + geometry.inputs + geometry.pixels),)


def _weights(factors: Factors, geometry: Geometry) -> tuple[Tensor, ...]:
    way_in, kernels, way_out = factors
    rank, ones = len(way_in), (1,) * len(geometry.kernel)
    return (
        way_in.reshape(rank, geometry.inputs, *ones),
        kernels.reshape(rank, 1, *geometry.kernel),
        way_out.reshape(geometry.outputs, rank, *ones),
    )


METHOD = Method(
    name="cp",
    suits=lambda geometry: geometry.pixels > 1 and min(geometry.inputs, geometry.outputs) > 1,
    full=_full,
    ranks=_ranks,
    decompose=decompose,
    compose=compose,
    layers=layers,
    weights=_weights,
)
