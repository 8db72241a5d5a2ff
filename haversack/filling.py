"""Filling: inputs of any length made as long as a file takes them, for files that have one size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, cat

from haversack.errors import TaskError
from haversack.lengths import Axes

Pad = Mapping[str, float]
"""As a task says it: an input's name, and the number that stands where a shorter one has ended."""
_SUCH = 'write such as Task(pad={"tokens": 0, "mask": 0}): an input\'s name, and what it is filled up with.'


def check_pad(pad: object) -> None:
    """Raises TaskError for what is no mapping from inputs to numbers; None is none."""
    if pad is None:
        return
    if not isinstance(pad, Mapping):
        raise _wrong(f"is {type(pad).__name__}, not a mapping.")
    for name, number in pad.items():
        if not isinstance(name, str):
            raise _wrong(f"has the key {name!r}, which is no input's name.")
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise _wrong(f"fills up the input '{name}' with {number!r}, which is no finite number.")


def _wrong(what: str) -> TaskError:
    return TaskError(f"Task.pad {what}", mend=_SUCH)


@dataclass(frozen=True)
class Filling:
    """How inputs become as long as a file takes them.

    `free` are the free dimensions of each input, `sizes` those of the file by their names, and `numbers` what each
    input is filled up with.
    """

    free: tuple[Axes, ...]
    sizes: Mapping[str, int]
    numbers: tuple[float, ...]

    @classmethod
    def of(cls, pad: Pad, names: Sequence[str], free: tuple[Axes, ...], batches: Sequence[tuple[Tensor, ...]]) -> Self:
        """Up to the longest of the batches, whose inputs have these names and these free dimensions.

        Raises TaskError where `pad` names another input, or does not name one that has a free dimension.
        """
        for name in pad:
            if name not in names:
                raise _wrong(f"names the input '{name}'; there is {', '.join(map(repr, names)) or 'none with a name'}.")
        numbers = []
        for name, value, axes in zip(names or [""] * len(free), batches[0], free, strict=True):
            if axes and name not in pad:
                raise _wrong(f"does not say what the input '{name}' is filled up with, whose length is free.")
            numbers.append(_held(pad.get(name, 0), name, value))
        sizes: dict[str, int] = {}
        for value, axes in (each for batch in batches for each in zip(batch, free, strict=True)):
            sizes |= {called: max(value.shape[dim], sizes.get(called, 0)) for dim, called in axes}
        return cls(free, sizes, tuple(numbers))

    def filled(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The inputs as long as the file takes them. Raises TaskError for one that is longer."""
        return tuple(self._filled(*each) for each in zip(batch, self.free, self.numbers, strict=True))

    def _filled(self, value: Tensor, axes: Axes, number: float) -> Tensor:
        for dim, called in axes:
            missing = self.sizes[called] - value.shape[dim]
            if missing < 0:
                raise TaskError(
                    f"an input has {value.shape[dim]} along dimension {dim} ('{called}'), and the file takes "
                    f"{self.sizes[called]}, which the longest calibration input has.",
                    mend="cut it off there, or let calibrate() yield one that is as long.",
                )
            if missing:
                behind = value.new_full((*value.shape[:dim], missing, *value.shape[dim + 1 :]), number)
                value = cat([value, behind], dim)
        return value

    def __str__(self) -> str:
        return ", ".join(f"{called} {size}" for called, size in self.sizes.items())


def _held(number: float, name: str, value: Tensor) -> float:
    """The number, if inputs of this type can hold it."""
    if value.is_floating_point():
        return number
    if number != int(number):
        raise _wrong(f"fills up the input '{name}' with {number}, and it holds whole numbers.")
    return int(number)
