"""A convolution as a grouped one and a 1 x 1 that mixes its channels: depthwise separable where a group is one channel.

A part of the kernel, from one group of inputs to one group of outputs, is a matrix (outputs, inputs * pixels) of low
rank: its SVD gives the filters, least squares how to mix them (filter group approximation, Peng et al. 2018; for groups
of one channel Guo et al. 2018, "Network Decoupling"). With several groups of outputs the mixture is grouped too, and
the channels are shuffled in between (Zhang et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from haversack.calibration.least_squares import Problem, least_squares, root
from haversack.calibration.patches import Geometry
from haversack.model import Layer

_SWEEPS = 3

# Shares of a convolution's numbers.
_RUNGS = (0.7, 0.55, 0.42, 0.32, 0.24, 0.18)


@dataclass(frozen=True)
class Shape:
    """Groups of input channels, groups of output channels, and how many filters each pair of groups has."""

    inputs: int
    outputs: int
    rank: int

    @property
    def channels(self) -> int:
        """The channels between the two convolutions."""
        return self.inputs * self.outputs * self.rank

    def layers(self, geometry: Geometry) -> tuple[Layer, ...]:
        """The whole kernel within groups, a shuffle where groups of outputs share the channels, and one pixel."""
        spread = geometry.piece(geometry.inputs, self.channels, geometry.everywhere, groups=self.inputs)
        mix = geometry.piece(self.channels, geometry.outputs, geometry.nowhere, groups=self.outputs, last=True)
        shuffle = Layer("ChannelShuffle", {"groups": self.inputs})
        return (spread, shuffle, mix) if self.outputs > 1 and self.inputs > 1 else (spread, mix)


@dataclass(frozen=True)
class GroupedFit:
    """Filters (groups in, groups out, rank, inputs a group * pixels) and the mixture.

    The mixture is (groups out, outputs a group, groups in, rank).
    """

    filters: Tensor
    mixture: Tensor

    def weight(self, problem: Problem) -> Tensor:
        """The dense weight (outputs, inputs, pixels) that they stand for."""
        dense = torch.einsum("boar,abrk->boak", self.mixture, self.filters)
        return dense.reshape(problem.weight.shape)

    def state(self, problem: Problem) -> Mapping[str, Tensor]:
        """What the layers of its shape hold, in a sequence."""
        geometry, (inputs, outputs, rank, _) = problem.geometry, self.filters.shape
        spread = self.filters.reshape(inputs * outputs * rank, -1, *geometry.kernel)
        # The shuffle lets the groups of inputs take turns.
        shuffled = outputs > 1 and inputs > 1
        mix = (self.mixture.transpose(2, 3) if shuffled else self.mixture).reshape(geometry.outputs, -1)
        last = 2 if shuffled else 1
        state = {"0.weight": spread, f"{last}.weight": mix.view(*mix.shape, *(1,) * len(geometry.kernel))}
        bias = problem.bias_for(self.weight(problem))
        return state if bias is None else {**state, f"{last}.bias": bias}


def fitted(problem: Problem, shape: Shape) -> GroupedFit:
    """Filters and mixture that keep the layer's output on the inputs it reads.

    Each pair's filters are first the best ones by themselves, as if its inputs had nothing in common with the others';
    then mixture and filters take turns, each being the best for what the other is.
    """
    curvature = _curvature(problem, shape)
    filters = _leading(problem, shape, curvature)
    fit = GroupedFit(filters, _mixture(problem, filters, curvature))
    for _ in range(_SWEEPS):
        filters = _filters(problem, fit, curvature)
        fit = GroupedFit(filters, _mixture(problem, filters, curvature))
    return fit


def _curvature(problem: Problem, shape: Shape) -> Tensor:
    """The second moment (groups, inputs a group * pixels, groups, inputs a group * pixels) of what the layer reads."""
    columns = problem.flat.shape[1]
    moment = torch.eye(columns, dtype=torch.float64) if problem.moment is None else problem.moment
    return moment.view(shape.inputs, columns // shape.inputs, shape.inputs, columns // shape.inputs)


def _leading(problem: Problem, shape: Shape, curvature: Tensor) -> Tensor:
    """The best filters of each pair of groups, by an SVD on inputs that are made white within their group."""
    parts = problem.weight.reshape(shape.outputs, -1, shape.inputs, curvature.shape[1]).permute(2, 0, 1, 3)
    roots, inverses = zip(*(root(curvature[group, :, group]) for group in range(shape.inputs)), strict=True)
    white = parts @ torch.stack(roots).unsqueeze(1)
    right: Tensor = torch.linalg.svd(white, full_matrices=False)[2]
    return right[:, :, : shape.rank] @ torch.stack(inverses).unsqueeze(1)


def _mixture(problem: Problem, filters: Tensor, curvature: Tensor) -> Tensor:
    """The best mixture of what the filters find, by least squares."""
    inputs, outputs, rank, _ = filters.shape
    read = torch.einsum("abrk,akjl->barjl", filters, curvature).flatten(1, 2)
    products = torch.einsum("bcjl,jbsl->bcjs", read, filters).flatten(2)
    wanted = read.flatten(2) @ problem.flat.view(outputs, -1, problem.flat.shape[1]).mT
    return torch.stack(
        [least_squares(products[group], wanted[group]).mT.reshape(-1, inputs, rank) for group in range(outputs)]
    )


def _filters(problem: Problem, fit: GroupedFit, curvature: Tensor) -> Tensor:
    """Better filters for the mixture as it is, one group of inputs after the other, each given the others."""
    filters = fit.filters.clone()
    away = (problem.weight - fit.weight(problem)).reshape(fit.mixture.shape[0], -1, *curvature.shape[:2])
    for group in range(len(filters)):
        mixture = fit.mixture[:, :, group]
        missed = torch.einsum("boak,akl->bol", away, curvature[:, :, group])
        change = torch.linalg.pinv(mixture) @ torch.linalg.solve(curvature[group, :, group], missed, left=False)
        filters[group] += change
        away[:, :, group] -= mixture @ change
    return filters


def ladder(geometry: Geometry) -> Iterator[Shape]:
    """The shapes that fit a convolution and hold ever smaller shares of its numbers: the most filters within each."""
    whole = geometry.outputs * geometry.inputs * geometry.pixels
    for inputs in _groups_of_few(geometry.inputs):
        for outputs in (1, 2) if geometry.outputs % 2 == 0 else (1,):
            rows, columns = geometry.outputs // outputs, geometry.inputs // inputs * geometry.pixels
            each = inputs * outputs * (rows + columns)
            ranks = {min(int(rung * whole / each), rows, columns) for rung in _RUNGS}
            yield from (Shape(inputs, outputs, rank) for rank in sorted(ranks - {0}, reverse=True))


def _groups_of_few(channels: int) -> list[int]:
    """How many groups there are of 1, 2, 4 and 8 channels; more than one group where there is more than one channel."""
    return [channels // size for size in (1, 2, 4, 8) if channels % size == 0 and (size == 1 or size < channels)]
