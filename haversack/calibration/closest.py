"""Closest: the integers whose weighted sums, not whose distance, are nearest to what a layer is to give.

GPTQ (Frantar et al. 2022), which is Babai's nearest plane in the lattice that the inputs span: weights are rounded one
after the other, and those still to come are moved to make up for the error. Then single integers and the step are
improved in turn, as the quadratic form is known exactly.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from haversack.calibration.least_squares import Fit, spread
from haversack.calibration.ranges import limits_of_least_error
from haversack.grid import halved, steps_of

# Steps in shares of the one that reaches the largest weight: at 2 bits the best may be a quarter of it.
_SHARES = tuple(share / 20 for share in range(5, 21))
_FINE = tuple(share / 50 for share in range(50, 24, -1))
# Later ones save less than a thousandth of the error.
_MOST_SWEEPS = 3
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
        for block in _blocks(left.shape[-1]):
            errors = self._block(left, codes, units, block, top)
            left[..., block.stop :] -= errors @ self._passed[:, block, block.stop :]
        return _along(codes, self._order.argsort(dim=-1))

    def _block(self, left: Tensor, codes: Tensor, units: Tensor | None, block: slice, top: int) -> Tensor:
        """Rounds some columns; the errors are passed on to the later ones of them, and returned for all others."""
        passed = self._passed[:, block, block].movedim(0, -1).unsqueeze(-1)
        columns = _columns(left[..., block])
        each = None if units is None else _columns(units[..., block])
        found, errors = torch.empty_like(columns), torch.empty_like(columns)
        for at, column in enumerate(columns):
            unit = 1.0 if each is None else each[at]
            found[at] = (column / unit).round().clamp(-top, top)
            errors[at] = (column - found[at] * unit) / passed[at, at]
            columns[at + 1 :] -= errors[at] * passed[at, at + 1 :]
        codes[..., block] = found.movedim(0, -1)
        return errors.movedim(0, -1)


def _blocks(columns: int) -> Iterator[slice]:
    """Columns that are worked on together, so that all others hear of it in one product of matrices."""
    return (slice(start, min(start + _BLOCK, columns)) for start in range(0, columns, _BLOCK))


def _columns(values: Tensor) -> Tensor:
    """A copy with the columns first, each of them one piece of memory."""
    return values.movedim(-1, 0).clone(memory_format=torch.contiguous_format)


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
    for block in _blocks(codes.shape[-1]):
        change = _moved(fit.curvature[:, block, block], codes[..., block], steps[..., block], slope[..., block], top)
        if change is not None:
            moved = True
            codes[..., block] += change
            slope[..., block.stop :] -= (change * steps[..., block]) @ fit.curvature[:, block, block.stop :]
    return moved


def _moved(curvature: Tensor, codes: Tensor, steps: Tensor, slope: Tensor, top: int) -> Tensor | None:
    """By how much each integer of some columns moves, one column after the other; None where none does."""
    bends = curvature.movedim(0, -1).unsqueeze(-1)
    now, steps, slope = (_columns(each) for each in (codes, steps, slope))
    change = torch.zeros_like(now)
    for at, column in enumerate(slope):
        better = (now[at] + column / (bends[at, at] * steps[at])).round().clamp(-top, top)
        change[at] = better - now[at]
        slope[at + 1 :] -= change[at] * steps[at] * bends[at, at + 1 :]
    return change.movedim(0, -1) if change.any() else None


def _best_steps(fit: Fit, codes: Tensor, steps: Tensor, least: Tensor) -> Tensor:
    """The steps with which the integers cost least; they stay where all integers are zero or point away."""
    along = codes @ fit.curvature
    square, product = (along * codes).sum(-1), (along * fit.best).sum(-1)
    return torch.where(product > 0, product / square.clamp_min(1e-30), steps).maximum(least)
