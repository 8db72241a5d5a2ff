"""Closest: the integers whose weighted sums, not whose distance, are nearest to what a layer is to give.

GPTQ (Frantar et al. 2022), which is Babai's nearest plane in the lattice that the inputs span: weights are rounded one
after the other, and those still to come are moved to make up for the error. Then single integers and the step are
improved in turn, as the quadratic form is known exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from haversack.calibration.least_squares import Fit, spread
from haversack.calibration.ranges import limits_of_least_error
from haversack.grid import halved, steps_of

# Steps in shares of the one that reaches the largest weight: at 2 bits the best may be a quarter of it.
_SHARES = tuple(share / 20 for share in range(5, 21))
_FINE = tuple(share / 50 for share in range(50, 24, -1))
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


def closest_in_groups(fit: Fit, bits: int, size: int) -> tuple[Tensor, Tensor]:
    """Integers of so many bits (groups, rows, columns), and a step for each `size` columns of a row, which divides it.

    Each step is the one of least squared error of its weights, taken by themselves; float16 holds it where it can.
    """
    rows, top = fit.best.reshape(-1, size), (1 << bits - 1) - 1
    steps = halved(steps_of(limits_of_least_error(rows, bits, _FINE), top)).to(rows.dtype)
    each = steps.repeat_interleave(size).view_as(fit.best)
    codes = _Turn(fit.curvature).rounded(fit.best, each, top)
    for _ in range(_MOST_SWEEPS):
        if not _move_each(fit, codes, each, top):
            break
    return codes, each[..., ::size]


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
        """The integers of the weights, whose steps are one a row, or one each."""
        left, units = _along(weight, self._order), None
        if steps.dim() == weight.dim():
            units = _along(steps, self._order)
        else:
            left = left / steps.unsqueeze(-1)
        codes = torch.empty_like(left)
        columns = left.shape[-1]
        for start in range(0, columns, _BLOCK):
            block = range(start, min(start + _BLOCK, columns))
            errors = self._block(left, codes, units, block, top)
            left[..., block.stop :] -= errors @ self._passed[:, start : block.stop, block.stop :]
        return _along(codes, self._order.argsort(dim=-1))

    def _block(self, left: Tensor, codes: Tensor, units: Tensor | None, block: range, top: int) -> Tensor:
        """Rounds some columns; the errors are passed on to the later ones of them, and returned for all others."""
        errors = torch.empty_like(left[..., block.start : block.stop])
        for column in block:
            unit = 1.0 if units is None else units[..., column]
            codes[..., column] = (left[..., column] / unit).round().clamp(-top, top)
            error = (left[..., column] - codes[..., column] * unit) / self._passed[:, column, column].unsqueeze(-1)
            errors[..., column - block.start] = error
            rest = slice(column + 1, block.stop)
            left[..., rest] -= error.unsqueeze(-1) * self._passed[:, column, None, rest]
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
    """Moves each integer to where the cost is least while all others stay; whether one moved.

    `steps` are one a row, or one an integer.
    """
    steps = steps if steps.dim() == codes.dim() else steps.unsqueeze(-1).expand_as(codes)
    slope = (fit.best - codes * steps) @ fit.curvature
    moved = False
    for column in range(codes.shape[-1]):
        steepness = fit.curvature[:, column, column].unsqueeze(-1) * steps[..., column]
        now = codes[..., column]
        better = (now + slope[..., column] / steepness).round().clamp(-top, top)
        change = better - now
        if change.any():
            moved = True
            codes[..., column] = better
            slope -= (change * steps[..., column]).unsqueeze(-1) * fit.curvature[:, column, None, :]
    return moved


def _best_steps(fit: Fit, codes: Tensor, steps: Tensor, least: Tensor) -> Tensor:
    """The steps with which the integers cost least; they stay where all integers are zero or point away."""
    along = codes @ fit.curvature
    square, product = (along * codes).sum(-1), (along * fit.best).sum(-1)
    return torch.where(product > 0, product / square.clamp_min(1e-30), steps).maximum(least)
