"""Rounding in closed form: weights go to the integers which repair each other's errors on the calibration inputs.

One sweep, layer by layer, in seconds. A layer's weights are refitted by least squares and rounded with their step, and
its bias makes up for the mean: the integers whose output, not whose distance, is nearest. GPTQ (Frantar et al. 2022),
which is Babai's nearest plane in the lattice that the inputs span: weights are rounded one after the other, and those
still to come are moved to make up for the error. Then single integers and the step are improved in turn, as the
quadratic form is known exactly. Where pruning left a zero there is no weight: it stays zero, and the others are
refitted and rounded without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from haversack.calibration.least_squares import Fit, spread
from haversack.calibration.ranges import Rounded, limits_for_bias, weight_grids
from haversack.calibration.sweep import Sweep, SweptLayer, swept_layers
from haversack.graph.folded import Folded
from haversack.graph.run import Batches
from haversack.grid import Grid, symmetric

# Steps in shares of the one that reaches the largest weight: at 2 bits the best may be a quarter of it.
_SHARES = tuple(share / 20 for share in range(5, 21))
_MOST_SWEEPS = 10
_BLOCK = 64
# Rows times candidates times columns that are rounded at once.
_MOST_NUMBERS = 1 << 22


def closest(fit: Fit, top: int, least: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Integers -top..top (groups, rows, columns) and steps (groups, rows), none below `least`, that cost little.

    They cost no more than the trained weights rounded to nearest with steps that reach the largest of them. Where
    `kept` is False there is no weight: the integer is zero, and the others are chosen as if its column were none.
    """
    groups, rows, columns = fit.best.shape
    if kept is not None and not kept.all():
        return _closest_of(fit, top, least, kept)
    turn = _Turn(fit.curvature)
    size = max(1, _MOST_NUMBERS // (groups * columns * len(_SHARES)))
    parts = [_closest(fit.part(slice(start, start + size)), top, least[:, start : start + size], turn)
             for start in range(0, rows, size)]  # fmt: skip
    codes, steps = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    return codes, steps


def _closest_of(fit: Fit, top: int, least: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """The integers of rows that keep different columns: each row is a problem of its own."""
    groups, _, columns = fit.best.shape
    codes, steps = torch.zeros_like(fit.best), torch.zeros_like(least)
    for some in fit.chunks(kept):
        own, places = fit.part(some).restricted(kept[:, some])
        found, theirs = closest(own, top, least[:, some].reshape(-1, 1))
        codes[:, some] = spread(found, places, columns).view(groups, -1, columns)
        steps[:, some] = theirs.view(groups, -1)
    return codes, steps


def _closest(fit: Fit, top: int, least: Tensor, turn: _Turn) -> tuple[Tensor, Tensor]:
    reach = fit.best.abs().amax(-1) / top
    tried = torch.cat([(reach * share).maximum(least) for share in _SHARES], 1)
    codes = turn.rounded(fit.best.repeat(1, len(_SHARES), 1), tried, top)
    plain = (fit.start.abs().amax(-1) / top).maximum(least)
    nearest = (fit.start / plain.unsqueeze(-1)).round().clamp(-top, top)
    codes, steps = _cheapest(fit, torch.cat([codes, nearest], 1), torch.cat([tried, plain], 1))
    return _improved(fit, codes, steps, top, least)


class _Turn:
    """The order in which columns are rounded, the steepest first, and how each passes its error on."""

    def __init__(self, curvature: Tensor) -> None:
        self._order = curvature.diagonal(dim1=-2, dim2=-1).argsort(dim=-1, descending=True, stable=True)
        ordered = _along(_along(curvature, self._order).mT, self._order).mT
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(ordered))
        self._passed = torch.linalg.cholesky((inverse + inverse.mT) / 2, upper=True)

    def rounded(self, weight: Tensor, steps: Tensor, top: int) -> Tensor:
        """The integers of the weights."""
        left = _along(weight, self._order) / steps.unsqueeze(-1)
        codes = torch.empty_like(left)
        columns = left.shape[-1]
        for start in range(0, columns, _BLOCK):
            end = min(start + _BLOCK, columns)
            errors = self._block(left, codes, start, end, top)
            left[..., end:] -= errors @ self._passed[:, start:end, end:]
        return _along(codes, self._order.argsort(dim=-1))

    def _block(self, left: Tensor, codes: Tensor, start: int, end: int, top: int) -> Tensor:
        """Rounds some columns; the errors are passed on to the later ones of them, and returned for all others."""
        errors = torch.empty_like(left[..., start:end])
        for column in range(start, end):
            codes[..., column] = left[..., column].round().clamp(-top, top)
            error = (left[..., column] - codes[..., column]) / self._passed[:, column, column].unsqueeze(-1)
            errors[..., column - start] = error
            left[..., column + 1 : end] -= error.unsqueeze(-1) * self._passed[:, column, None, column + 1 : end]
        return errors


def _along(values: Tensor, order: Tensor) -> Tensor:
    """`values` with their last dimension in the order of their group."""
    return values.gather(-1, order.unsqueeze(-2).expand_as(values))


def _cheapest(fit: Fit, codes: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate of each row that costs least, given all rows of the first candidate, of the second, and so on."""
    groups, rows, columns = fit.best.shape
    cost = fit.cost(codes * steps.unsqueeze(-1)).view(groups, -1, rows)
    found = cost.argmin(1, keepdim=True)
    chosen = codes.view(groups, -1, rows, columns).gather(1, found.unsqueeze(-1).expand(-1, -1, -1, columns))
    return chosen.squeeze(1), steps.view(groups, -1, rows).gather(1, found).squeeze(1)


def _improved(fit: Fit, codes: Tensor, steps: Tensor, top: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinate descent: each integer in turn to its best value, then the step, until no integer moves."""
    for _ in range(_MOST_SWEEPS):
        steps = _best_steps(fit, codes, steps, least)
        if not _move_each(fit, codes, steps, top):
            break
    return codes, _best_steps(fit, codes, steps, least)


def _move_each(fit: Fit, codes: Tensor, steps: Tensor, top: int) -> bool:
    """Moves each integer to where the cost is least while all others stay; whether one moved."""
    slope = (fit.best - codes * steps.unsqueeze(-1)) @ fit.curvature
    moved = False
    for column in range(codes.shape[-1]):
        steepness = fit.curvature[:, column, column].unsqueeze(-1) * steps
        now = codes[..., column]
        better = (now + slope[..., column] / steepness).round().clamp(-top, top)
        change = better - now
        if change.any():
            moved = True
            codes[..., column] = better
            slope -= (change * steps).unsqueeze(-1) * fit.curvature[:, column, None, :]
    return moved


def _best_steps(fit: Fit, codes: Tensor, steps: Tensor, least: Tensor) -> Tensor:
    """The steps with which the integers cost least; they stay where all integers are zero or point away."""
    along = codes @ fit.curvature
    square, product = (along * codes).sum(-1), (along * fit.best).sum(-1)
    return torch.where(product > 0, product / square.clamp_min(1e-30), steps).maximum(least)


_RIDGE = 1e-2


@torch.no_grad()
def round_closed_form(
    folded: Folded, grids: Mapping[str, Grid], bits: Mapping[str, int], batches: Batches, sparse: Collection[str] = ()
) -> Rounded:
    """Weights on `bits` bits a weight name, and biases, with which the network stays closest to what it computes.

    `grids` are those of the values, none where values stay float. Only what is writable changes; other
    weights in `bits`, and those that layers share, are rounded to nearest. Weights not in `bits` stay float; zeros of
    those in `sparse` stay zero. Raises RecipeError for weights that hold NaN or infinity.
    """
    chosen = swept_layers(folded, bits)
    others = bits.keys() - {each.weight for each in chosen}
    plain = weight_grids(folded, grids, {name: bits[name] for name in others})
    sweep = Sweep.over(folded, folded.lowered({**grids, **plain}), batches, chosen)
    found: dict[str, Grid] = {}
    for layer in chosen:
        weight, top = folded.tensor(layer.weight), (1 << bits[layer.weight] - 1) - 1
        fit = sweep.fit(layer, ridge=_RIDGE)
        least = _least_steps(folded, layer, grids, bits[layer.weight]).double().expand(len(weight))
        kept = (weight != 0).reshape(fit.best.shape) if layer.weight in sparse else None
        codes, steps = closest(fit, top, least.reshape(fit.rows.shape), kept)
        grid = found[layer.weight] = symmetric(steps * top, axis=0, bits=bits[layer.weight])
        sweep.choose(layer, grid.dequantize(codes.reshape(weight.shape).to(torch.int32)), fit)
    return Rounded(sweep.tensors, {**plain, **found})


def _least_steps(folded: Folded, layer: SweptLayer, grids: Mapping[str, Grid], bits: int) -> Tensor:
    """The least steps, one number for all or one an output channel: the bias must fit into its integers."""
    inputs = grids.get(layer.reads)
    limits = torch.zeros(()) if inputs is None else limits_for_bias(folded, layer.bias, inputs, bits)
    return (limits / ((1 << bits - 1) - 1)).clamp_min(1e-8)
