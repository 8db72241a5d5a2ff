"""Problem: a layer's weight and what it reads, so that factors lose little of its output and not of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from haversack.model import Layer
from haversack.numerics.factors.geometry import Geometry

# The pull towards the plain weight, in shares of the mean power of the inputs: what they do not tell, stays.
_RIDGE = 1e-3
# A second moment of more columns takes half a gigabyte and more: there every input counts alike.
_MOST_COLUMNS = 8192
# Numbers of patches that are cut at a time.
_MOST_NUMBERS = 1 << 23


@dataclass(frozen=True)
class Factor:
    """One layer of those that take another's place, with its numbers."""

    layer: Layer
    weight: Tensor
    bias: Tensor | None = None


Chain = tuple[Factor, ...]


@dataclass(frozen=True)
class Problem:
    """A weight (outputs, inputs, pixels), its bias, and the second moment of the patches it reads, all float64.

    The squared output error of another weight w' is tr((w - w') moment (w - w')^T). Where the layer has a bias, which
    makes up for every shift, the moment is the one around the `mean`. None counts every input alike.
    """

    geometry: Geometry
    weight: Tensor
    bias: Tensor | None = None
    moment: Tensor | None = None
    mean: Tensor | None = None

    @property
    def flat(self) -> Tensor:
        """The weight as a matrix (outputs, inputs * pixels)."""
        return self.weight.flatten(1)

    def without_inputs(self) -> Problem:
        """The same weight where nothing is known of the inputs."""
        return replace(self, moment=None, mean=None)

    def read(self, matrix: Tensor) -> Tensor:
        """`matrix` (rows, inputs * pixels) times the moment of what the layer reads."""
        return matrix if self.moment is None else matrix @ self.moment

    def error(self, other: Tensor) -> float:
        """The share of the output's power that is lost when the weight is `other`; 0 where there is no output."""
        away, flat = self.flat - other.flatten(1), self.flat
        power = (self.read(flat) * flat).sum()
        return float((self.read(away) * away).sum() / power) if power > 0 else 0.0

    def bias_for(self, other: Tensor) -> Tensor | None:
        """The bias with which the mean output of the weight `other` is the layer's own."""
        if self.bias is None or self.mean is None:
            return self.bias
        return self.bias + (self.flat - other.flatten(1)) @ self.mean

    def channel_moment(self) -> Tensor:
        """The second moment of the input channels (inputs, inputs), averaged over the kernel's pixels."""
        inputs, pixels = self.geometry.inputs, self.geometry.pixels
        if self.moment is None:
            return torch.eye(inputs, dtype=self.weight.dtype)
        return torch.einsum("ipjp->ij", self.moment.view(inputs, pixels, inputs, pixels)) / pixels

    def refitted(self, features: Tensor) -> Tensor:
        """The matrix (outputs, rows) that best makes the outputs from `features` (rows, inputs * pixels) of a patch."""
        read = self.read(features)
        return least_squares(read @ features.mT, read @ self.flat.mT).mT


def least_squares(curvature: Tensor, products: Tensor) -> Tensor:
    """The solution x of curvature x = products, also where `curvature` has lost some of its rank."""
    scale = curvature.diagonal().mean().clamp_min(1e-30)
    tiny = torch.eye(len(curvature), dtype=curvature.dtype) * (scale * 1e-12)
    solution: Tensor = torch.linalg.solve(curvature + tiny, products)
    return solution


def leading(symmetric: Tensor, count: int) -> Tensor:
    """The eigenvectors (rows, count) of the largest eigenvalues of a symmetric matrix."""
    vectors: Tensor = torch.linalg.eigh(symmetric)[1]
    return vectors.flip(1)[:, :count]


def spectrum(symmetric: Tensor) -> Tensor:
    """The eigenvalues of a symmetric matrix, largest first, none below zero."""
    values: Tensor = torch.linalg.eigvalsh(symmetric)
    return values.flip(0).clamp_min(0)


def root(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """The square root of a positive matrix, and its inverse; directions without power are floored."""
    values, vectors = torch.linalg.eigh(symmetric)
    roots = values.clamp_min(float(values.max()) * 1e-10).clamp_min(1e-30).sqrt()
    return (vectors * roots) @ vectors.mT, (vectors / roots) @ vectors.mT


def problem_of(layer: nn.Module, geometry: Geometry, inputs: Sequence[Tensor] = ()) -> Problem:
    """The problem of a layer that reads `inputs`, batches of them; without any, every input counts alike."""
    weight = layer.get_parameter("weight").detach().double().reshape(geometry.outputs, geometry.inputs, geometry.pixels)
    bias = layer.get_parameter("bias").detach().double() if geometry.bias else None
    if not inputs or geometry.inputs * geometry.pixels > _MOST_COLUMNS:
        return Problem(geometry, weight, bias)
    moment, mean = _moments(geometry, inputs)
    if bias is None:
        return Problem(geometry, weight, None, _pulled(moment))
    return Problem(geometry, weight, bias, _pulled(moment - torch.outer(mean, mean)), mean)


def _moments(geometry: Geometry, batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The means of the products and of the numbers of a patch, over some thousands of positions."""
    columns = geometry.inputs * geometry.pixels
    random = torch.Generator().manual_seed(0)
    square = torch.zeros(columns, columns, dtype=torch.float64)
    total = torch.zeros(columns, dtype=torch.float64)
    count, samples = 0, sum(map(len, batches))
    for part in (part for batch in batches for part in batch.split(_together(geometry, batch))):
        found = geometry.patches(part.detach().float())
        most = max(1, max(4096, 4 * columns) * len(part) // samples)
        found = found[torch.randperm(len(found), generator=random)[:most]]
        # Products of a part in float32, their sum in float64.
        square += found.mT @ found
        total += found.double().sum(0)
        count += len(found)
    return square / count, total / count


def _together(geometry: Geometry, batch: Tensor) -> int:
    """How many samples to cut at a time: patches repeat each number as often as the kernel is large."""
    return max(1, _MOST_NUMBERS // max(1, batch[0].numel() * geometry.pixels))


def _pulled(moment: Tensor) -> Tensor:
    diagonal = moment.diagonal()
    diagonal += (_RIDGE * diagonal.mean()).clamp_min(1e-30)
    return moment
