"""Positions: which of them count, as a mask among the inputs says, and where a value has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haversack.batches import Outputs, each_of
from haversack.errors import TaskError
from haversack.lengths import Axes


@dataclass(frozen=True)
class Along:
    """Along which of its dimensions a value has its samples, and along which its positions."""

    samples: int
    positions: tuple[int, ...]

    def counting(self, value: Tensor, mask: Tensor) -> Tensor:
        """What a value holds where the mask (samples, positions) is not zero: one row after the other."""
        dims = range(len(self.positions))
        rows = value.movedim((self.samples, *self.positions), (0, *(dim + 1 for dim in dims)))
        along_each = [(mask != 0).view(len(mask), *(-1 if dim == other else 1 for other in dims)) for dim in dims]
        return rows[functools.reduce(torch.logical_and, along_each)]

    def behind(self, dim: int) -> int:
        """Which dimension of those rows another one of the value's has become."""
        return 1 + dim - sum(each < dim for each in (self.samples, *self.positions))


@dataclass(frozen=True)
class Mask:
    """The input at `place` is not zero where a position counts; `outputs` says where each output has positions."""

    place: int
    outputs: tuple[Along | None, ...]

    def kept(self, outputs: Outputs, inputs: Sequence[Tensor]) -> Outputs:
        """The outputs of a batch at the positions that count, rows in the place of samples; others as they are."""
        ways = zip(each_of(outputs), self.outputs, strict=True)
        mask = inputs[self.place]
        if not bool(mask.any()):
            return outputs
        kept = tuple(value if along is None else along.counting(value, mask) for value, along in ways)
        return kept[0] if isinstance(outputs, Tensor) else kept

    def kept_targets(self, target: Any, inputs: Sequence[Tensor]) -> Any:  # noqa: ANN401 - as train() yields it
        """Of a target for outputs, or a tuple of one for each, what is wanted at the positions that count."""
        mask = inputs[self.place]
        if isinstance(target, tuple | list):
            return tuple(_wanted(each, along, mask) for each, along in zip(target, self.outputs, strict=False))
        return _wanted(target, self.outputs[0], mask)


def that_count(mask: Mask | None, outputs: Outputs, inputs: Sequence[Tensor]) -> Outputs:
    """The outputs of a batch where positions count: as they are without a mask."""
    return outputs if mask is None else mask.kept(outputs, inputs)


def _wanted(target: Any, along: Along | None, mask: Tensor) -> Any:  # noqa: ANN401
    by_position = along is not None and isinstance(target, Tensor) and target.shape[:2] == mask.shape
    return target[mask != 0] if by_position and bool(mask.any()) else target


def place_of_mask(name: str, names: Sequence[str], free: Sequence[Axes], batches: Sequence[tuple[Tensor, ...]]) -> int:
    """Which input a task's mask is. Raises TaskError for one that is not there, or is no mask."""
    if name not in names:
        raise _wrong(name, f"; there is {', '.join(map(repr, names)) or 'none with a name'}")
    place = list(names).index(name)
    masks = [batch[place] for batch in batches]
    if masks[0].dim() != 2:
        raise _wrong(name, f", which has {masks[0].dim()} dimensions and not two: samples and positions")
    if not free or dict(free[place]).keys() != {1}:
        raise _wrong(name, ", whose length is fixed, so that nobody knows which values have its positions")
    if any(bool(((mask != 0) & (mask != 1)).any()) for mask in masks) or not any(bool(mask.any()) for mask in masks):
        raise _wrong(name, ", which holds other numbers than 1 where a position counts and 0 where it is filling")
    return place


def _wrong(name: str, why: str) -> TaskError:
    return TaskError(
        f"Task.mask names the input '{name}'{why}.",
        mend="name an input of ones and zeros whose length is free: "
        'Task(mask="mask", free={"mask": {1: "words"}, "tokens": {1: "words"}}).',
    )
