"""Least squares: the real-valued weights with which a layer best repeats its wanted outputs from what it reads.

Once their inputs are rounded, the trained weights are no longer the best ones. The squared output error is a quadratic
form of the weights, so a layer's whole calibration set shrinks to a matrix as wide as the layer's rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.numerics.patches import Patches

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

    def add(self, inputs: Tensor, outputs: Tensor, most: int) -> None:
        """Counts a batch in: all its positions, or about `most` of them if there are more."""
        each = max(1, most // len(inputs))
        for start, end in self._patches.parts(inputs, outputs, each):
            x, y = self._patches(inputs[start:end], outputs[start:end], each)
            if self._origin is None:
                self._origin = (x.mean(-1, keepdim=True) * self._centred, y.mean(-1, keepdim=True) * self._centred)
            x, y = x - self._origin[0], y - self._origin[1]
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
