"""Least squares: the real-valued weights with which a layer best repeats its wanted outputs from what it reads.

Once their inputs are rounded or fewer, the trained weights are no longer the best ones. The squared output error is a
quadratic form of the weights, so a layer's whole calibration set shrinks to a matrix as wide as the layer's rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from haversack.calibration.patches import Geometry, Patches
from haversack.errors import TaskError

# Numbers of all rows' own curvatures that are worked on at once.
_MOST_NUMBERS = 1 << 24


@dataclass(frozen=True)
class Fit:
    """The best real weights (groups, rows, columns) and the curvature (groups, columns, columns) around them.

    Other weights w cost (w - best) curvature (w - best)^T more, in squared output a position. `start` are the weights
    that the layer had, `rows` and `columns` the mean wanted outputs and the mean inputs.
    """

    start: Tensor
    best: Tensor
    curvature: Tensor
    rows: Tensor
    columns: Tensor

    def cost(self, weight: Tensor) -> Tensor:
        """What `weight` adds to the squared error of each row; `weight` may have more rows than the layer."""
        repeats = weight.shape[1] // self.best.shape[1]
        away = weight - self.best.repeat(1, repeats, 1)
        return ((away @ self.curvature) * away).sum(-1)

    def restricted(self, kept: Tensor) -> tuple[Fit, Tensor]:
        """The fit of each row to the columns that it keeps (groups, rows, columns), every row a group of its own.

        Also the places of its columns (groups x rows, most columns that a row keeps). Rows that keep fewer are filled
        up with columns that nothing depends on and whose best weight is zero.
        """
        wanted = kept.flatten(0, 1)
        most = max(1, int(wanted.sum(1).max()))
        places = wanted.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        real = wanted.gather(1, places)
        group = torch.arange(len(self.best)).repeat_interleave(self.best.shape[1])
        curvature = self.curvature[group[:, None, None], places[:, :, None], places[:, None, :]]
        curvature = curvature * (real[:, :, None] & real[:, None, :]) + torch.diag_embed((~real).to(curvature.dtype))
        start, pulled, columns = (
            (each.gather(1, places) * real)
            for each in (self.start.flatten(0, 1), (self.best @ self.curvature).flatten(0, 1), self.columns[group])
        )
        best = torch.linalg.solve(curvature, pulled.unsqueeze(-1)).mT
        return Fit(start.unsqueeze(1), best, curvature, self.rows.reshape(-1, 1), columns), places

    def part(self, rows: slice) -> Fit:
        """Some rows of each group."""
        return Fit(self.start[:, rows], self.best[:, rows], self.curvature, self.rows[:, rows], self.columns)

    def chunks(self, kept: Tensor) -> Iterator[slice]:
        """Rows whose own curvatures, restricted to what they keep, fit into memory together."""
        groups, rows, _ = self.best.shape
        most = max(1, int(kept.sum(-1).max()))
        size = max(1, _MOST_NUMBERS // (groups * most * most))
        return (slice(start, start + size) for start in range(0, rows, size))

    def bias(self, weight: Tensor) -> Tensor:
        """The bias, one number a row, with which the mean outputs of `weight` are the wanted ones."""
        return self.rows - (weight @ self.columns.unsqueeze(-1)).squeeze(-1)


def spread(values: Tensor, places: Tensor, columns: int) -> Tensor:
    """Numbers (rows, 1, some columns) back at their places among all columns; (rows, columns)."""
    return values.new_zeros(len(values), columns).scatter(1, places, values.squeeze(1))


class Moments:
    """Means of the products of a layer's inputs with themselves and with its wanted outputs, in float64.

    With `centred` they are those around the means: the bias is taken to make up for every shift.
    """

    def __init__(self, layer: fx.Node, weight: Tensor, *, centred: bool) -> None:
        self._value, self._patches, self._centred = layer.name, Patches(layer, weight), centred
        groups, rows, columns = self._patches.shape
        self._count = 0
        # Sums are taken around a first guess of the means: float32 would lose a small spread around a large mean.
        self._origin: tuple[Tensor, Tensor] | None = None
        self._columns = torch.zeros(groups, columns, dtype=torch.float64)
        self._rows = torch.zeros(groups, rows, dtype=torch.float64)
        self._squares = torch.zeros(groups, columns, columns, dtype=torch.float64)
        self._products = torch.zeros(groups, rows, columns, dtype=torch.float64)

    @property
    def numbers(self) -> int:
        """How many numbers the layer reads to compute one position in all channels."""
        return self._columns.numel()

    def add(self, inputs: Tensor, outputs: Tensor, most: int) -> None:
        """Counts a batch in: all its positions, or about `most` of them if there are more."""
        each = max(1, most // len(inputs))
        for start, end in self._patches.parts(inputs, outputs, each):
            x, y = self._patches(inputs[start:end], outputs[start:end], each)
            if self._origin is None:
                self._origin = (x.mean(-1, keepdim=True) * self._centred, y.mean(-1, keepdim=True) * self._centred)
            # In place: the patches are copies.
            x, y = x.sub_(self._origin[0]), y.sub_(self._origin[1])
            self._count += x.shape[-1]
            self._columns += x.sum(-1)
            self._rows += y.sum(-1)
            self._squares += x @ x.mT
            self._products += y @ x.mT

    def fit(self, weight: Tensor, bias: Tensor | None, *, ridge: float) -> Fit:
        """The best weights near `weight`, with the bias that follows from them or, where not centred, with `bias`.

        `ridge` is the pull towards `weight`, in shares of the mean curvature: what the inputs do not tell, stays.
        Raises TaskError where no batch was counted in, or numbers were not finite.
        """
        self._check()
        start = weight.double().reshape(self._products.shape)
        columns, rows, squares, products = self._means()
        if self._centred:
            squares = squares - columns.unsqueeze(-1) * columns.unsqueeze(-2)
            products = products - rows.unsqueeze(-1) * columns.unsqueeze(-2)
        elif bias is not None:
            products = products - bias.double().view(rows.shape).unsqueeze(-1) * columns.unsqueeze(-2)
        curvature = _with_pull(squares, ridge)
        missed = products - start @ squares
        best = start + torch.linalg.solve(curvature, missed.mT).mT
        if self._origin is not None:
            rows, columns = rows + self._origin[1].squeeze(-1), columns + self._in_order(self._origin[0].squeeze(-1))
        return Fit(start, best, curvature, rows, columns)

    def _means(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of inputs, outputs and products, columns in the weight's order."""
        sums = (self._in_order(self._columns), self._rows, self._in_order(self._in_order(self._squares).mT))
        columns, rows, squares, products = (each / self._count for each in (*sums, self._in_order(self._products)))
        return columns, rows, squares, products

    def _in_order(self, values: Tensor) -> Tensor:
        return values[..., self._patches.order]

    def _check(self) -> None:
        if self._count == 0 or not all(each.isfinite().all() for each in (self._squares, self._products)):
            raise TaskError(
                "there are no calibration inputs, or the network computes NaN or infinity on them.",
                where=f"value {self._value}",
                mend="check the inputs and the weights of the network.",
            )


def _with_pull(squares: Tensor, ridge: float) -> Tensor:
    diagonal = squares.diagonal(dim1=-2, dim2=-1)
    # A channel that is always zero still needs a curvature that has an inverse.
    pull = (ridge * diagonal.mean(-1, keepdim=True)).clamp_min(1e-12)
    return squares + torch.diag_embed(pull.expand_as(diagonal))


# Rows x columns^3 of a layer that is solved exactly: some twenty seconds on one core.
MOST_WORK = 2e11
_ROUNDS = 30


def refitted(fit: Fit, kept: Tensor) -> Tensor:
    """The best weights of which only those in `kept` may differ from zero; both (groups, rows, columns).

    In layers so large that this would take minutes, nearly the best ones, by conjugate gradients.
    """
    groups, rows, columns = fit.best.shape
    if groups * rows * int(kept.sum(-1).max()) ** 3 > MOST_WORK:
        return descended(fit, kept, fit.best, _ROUNDS)
    found = torch.zeros_like(fit.best)
    for some in fit.chunks(kept):
        best, places = fit.part(some).restricted(kept[:, some])
        found[:, some] = spread(best.best, places, columns).view(groups, -1, columns)
    return found * kept


def descended(fit: Fit, kept: Tensor, weight: Tensor, rounds: int) -> Tensor:
    """`weight` after rounds of conjugate gradients, each row of its own, scaled by the curvature's diagonal."""
    diagonal = fit.curvature.diagonal(dim1=1, dim2=2).unsqueeze(1)
    weight = weight * kept
    slope = ((fit.best - weight) @ fit.curvature) * kept
    scaled = slope / diagonal
    direction, size = scaled, (slope * scaled).sum(-1, keepdim=True)
    for _ in range(rounds):
        along = (direction @ fit.curvature) * kept
        length = size / (direction * along).sum(-1, keepdim=True).clamp_min(1e-300)
        weight, slope = weight + length * direction, slope - length * along
        scaled = slope / diagonal
        before, size = size, (slope * scaled).sum(-1, keepdim=True)
        direction = scaled + size / before.clamp_min(1e-300) * direction
    return weight


# The pull towards the plain weight, in shares of the mean power of the inputs: what they do not tell, stays.
_RIDGE = 1e-3
# A second moment of more columns takes half a gigabyte and more: there every input counts alike.
_MOST_COLUMNS = 8192
# Numbers of patches that are cut at a time.
_MOST_PATCHES = 1 << 23


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
    return max(1, _MOST_PATCHES // max(1, batch[0].numel() * geometry.pixels))


def _pulled(moment: Tensor) -> Tensor:
    diagonal = moment.diagonal()
    diagonal += (_RIDGE * diagonal.mean()).clamp_min(1e-30)
    return moment
