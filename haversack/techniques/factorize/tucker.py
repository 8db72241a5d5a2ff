"""A kernel between fewer channels: 1 x 1 in, the kernel, 1 x 1 out (Tucker-2; Kim et al. 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from haversack.calibration.least_squares import Problem, leading, least_squares, root
from haversack.calibration.patches import Geometry
from haversack.model import Layer
from haversack.techniques._exchange import Ranks
from haversack.techniques.factorize.method import Factors, Method

_SWEEPS = 2


def decompose(problem: Problem, ranks: Ranks) -> Factors:
    """The way in (rank in, inputs), the core (rank out, rank in, pixels) and the way out (outputs, rank out).

    Sides take turns as in the higher-order orthogonal iteration (De Lathauwer et al. 2000). The way in is chosen on
    inputs that are made white, as if the kernel's pixels had nothing in common; given it, core and way out are the best
    for what the inputs really are.
    """
    root_of, inverse = root(problem.channel_moment())
    fitted, power = problem.flat, problem.read(problem.flat) @ problem.flat.mT
    for _ in range(_SWEEPS):
        way_out = leading(power, ranks[1])
        inner = torch.einsum("os,oip->sip", way_out, problem.weight)
        white = torch.einsum("ij,sjp->isp", root_of, inner).flatten(1)
        way_in = leading(white @ white.mT, ranks[0]).mT @ inverse
        fitted, power = _given(problem, way_in)
    way_out = leading(power, ranks[1])
    return way_in, (way_out.mT @ fitted).view(ranks[1], ranks[0], -1), way_out


def compose(factors: Factors) -> Tensor:
    """The weight that the three stand for."""
    way_in, core, way_out = factors
    return torch.einsum("os,srp,ri->oip", way_out, core, way_in)


def layers(geometry: Geometry, ranks: Ranks) -> tuple[Layer, ...]:
    """Fewer channels in, the kernel among them, and out again."""
    return (
        geometry.piece(geometry.inputs, ranks[0], geometry.nowhere),
        geometry.piece(ranks[0], ranks[1], geometry.everywhere),
        geometry.piece(ranks[1], geometry.outputs, geometry.nowhere, last=True),
    )


def _given(problem: Problem, way_in: Tensor) -> tuple[Tensor, Tensor]:
    """The best weight (outputs, rank in * pixels) behind `way_in`, and its outputs' second moment."""
    if problem.moment is None:
        # The way in is then a rotation, and its own inverse transposed.
        fitted = torch.einsum("oip,ri->orp", problem.weight, way_in).flatten(1)
        return fitted, fitted @ fitted.mT
    inputs, pixels = problem.geometry.inputs, problem.geometry.pixels
    moment = problem.moment.view(inputs, pixels, inputs, pixels)
    # Pixel by pixel, which spares most of the products with the whole moment.
    read = torch.einsum("ri,ipjq->rpjq", way_in, moment)
    curvature = torch.einsum("rpjq,sj->rpsq", read, way_in).reshape(len(way_in) * pixels, -1)
    fitted = least_squares(curvature, read.reshape(len(curvature), -1) @ problem.flat.mT).mT
    return fitted, fitted @ curvature @ fitted.mT


def _full(geometry: Geometry) -> Ranks:
    return (
        min(geometry.inputs, geometry.outputs * geometry.pixels),
        min(geometry.outputs, geometry.inputs * geometry.pixels),
    )


def _ranks(geometry: Geometry, share: float) -> tuple[float, ...]:
    """Both sides shrink to the same fraction f: f (inputs^2 + outputs^2) + f^2 whole = share * whole."""
    whole = geometry.outputs * geometry.inputs * geometry.pixels
    ways = geometry.inputs**2 + geometry.outputs**2
    fraction = (math.sqrt(ways**2 + 4 * whole * whole * share) - ways) / (2 * whole)
    return fraction * geometry.inputs, fraction * geometry.outputs


def _weights(factors: Factors, geometry: Geometry) -> tuple[Tensor, ...]:
    way_in, core, way_out = factors
    ones = (1,) * len(geometry.kernel)
    return (
        way_in.reshape(*way_in.shape, *ones),
        core.reshape(*core.shape[:2], *geometry.kernel),
        way_out.reshape(*way_out.shape, *ones),
    )


def _sides(problem: Problem) -> tuple[Tensor, ...]:
    white = torch.einsum("ij,ojp->iop", root(problem.channel_moment())[0], problem.weight).flatten(1)
    return white @ white.mT, problem.read(problem.flat) @ problem.flat.mT


METHOD = Method(
    name="tucker",
    suits=lambda geometry: geometry.pixels > 1 and min(geometry.inputs, geometry.outputs) > 1,
    full=_full,
    ranks=_ranks,
    decompose=decompose,
    compose=compose,
    layers=layers,
    weights=_weights,
    sides=_sides,
)
