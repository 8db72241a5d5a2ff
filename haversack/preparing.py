"""Preparing: how an image's raw bytes become the numbers that a network was trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from haversack.errors import TaskError

Layout = Literal["NCHW", "NHWC"]
_WHERE = "Task(prepare=...)"
_TOP = 255
# Relative to the number: what float64 loses in mean / scale.
_WHOLE = 1e-9


@dataclass(frozen=True)
class Prepare:
    """What turns bytes into a network's input: (byte * scale - mean) / std.

    `mean` and `std` are a number for all channels or one for each, in units after scaling, as torchvision writes them.
    `layout` is how the bytes lie in the user's data; the network gets its channels first in any case.
    """

    scale: float = 1 / _TOP
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Layout = "NCHW"

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise TaskError(f"layout is {self.layout!r}.", where=_WHERE, mend="write 'NCHW' or 'NHWC'.")
        for name in ("scale", "mean", "std"):
            value = getattr(self, name)
            several = name != "scale" and isinstance(value, tuple | list)
            numbers = tuple(value) if several else (value,)
            positive = name != "mean"
            if not numbers or not all(_is_number(each, positive=positive) for each in numbers):
                kind = "positive number" if positive else "number"
                many = "" if name == "scale" else f", or a tuple of them: a {kind} for each channel"
                raise TaskError(f"{name} is {value!r}.", where=_WHERE, mend=f"write a {kind}{many}.")
            plain = tuple(float(each) for each in numbers)
            object.__setattr__(self, name, plain if several else plain[0])
        if len(_lengths(self)) > 1:
            raise TaskError(
                f"there are {len(_each(self.mean))} means and {len(_each(self.std))} deviations.",
                where=_WHERE,
                mend="write one for all channels, or one of each for each channel.",
            )

    @property
    def channels(self) -> int | None:
        """For how many channels it has numbers; None where they hold for any."""
        return next(iter(_lengths(self)), None)

    @property
    def zero(self) -> int | None:
        """The byte that stands for zero, where there is one and all channels have the same step."""
        (mean, *means), (std, *deviations) = (_each(each) for each in (self.mean, self.std))
        if any(each != mean for each in means) or any(each != std for each in deviations):
            return None
        exact = mean / self.scale
        return round(exact) if abs(exact - round(exact)) <= _WHOLE * _TOP and 0 <= round(exact) <= _TOP else None

    @property
    def factors(self) -> list[float]:
        """What each byte is multiplied by: one number, or one for each channel."""
        count = self.channels or 1
        return [self.scale / std for std in _spread(self.std, count)]

    @property
    def shifts(self) -> list[float]:
        """What is added then, as many."""
        count = self.channels or 1
        return [-mean / std for mean, std in zip(_spread(self.mean, count), _spread(self.std, count), strict=True)]


class Prepared:
    """A function from a batch of bytes to what the network takes."""

    def __init__(self, prepare: Prepare) -> None:
        self._turned, self._zero, self._step = prepare.layout == "NHWC", prepare.zero, prepare.factors[0]
        self._factors = torch.tensor(prepare.factors, dtype=torch.float64).to(torch.float32)
        self._shifts = torch.tensor(prepare.shifts, dtype=torch.float64).to(torch.float32)

    def __call__(self, raw: Tensor) -> Tensor:
        """Real numbers, the batch first and then the channels."""
        if raw.dtype != torch.uint8:
            raise _no_bytes(raw)
        if self._turned:
            raw = raw.permute(0, raw.dim() - 1, *range(1, raw.dim() - 1))
        real = raw.to(torch.float32)
        if self._zero is not None:
            # So the grid of an integer file is seen, whose integers the bytes are.
            real = real - self._zero if self._zero else real
            return real if self._step == 1 else real * self._step
        shape = [-1, *[1] * (raw.dim() - 2)]
        return real * self._factors.view(shape) + self._shifts.view(shape)


def check_bytes(prepare: Prepare, inputs: Sequence[Tensor]) -> None:
    """Raises TaskError where these inputs of a batch are not the bytes that are to be prepared."""
    if len(inputs) != 1:
        raise TaskError(
            f"the network takes {len(inputs)} inputs, and one alone can be prepared.",
            where=_WHERE,
            mend="leave `prepare` out, and let calibrate(), train() and score() yield what the network takes.",
        )
    raw = inputs[0]
    if raw.dtype != torch.uint8:
        raise _no_bytes(raw)
    if raw.dim() < _LEAST_DIMS:
        raise TaskError(f"samples of shape {tuple(raw.shape[1:])} have no channels.", where=_WHERE, mend=_MEND)
    count = raw.shape[-1 if prepare.layout == "NHWC" else 1]
    if prepare.channels not in (None, count):
        raise TaskError(
            f"there are means and deviations for {prepare.channels} channels, and calibrate() yields {count}: "
            f"{tuple(raw.shape)} as {prepare.layout}.",
            where=_WHERE,
            mend="write a number for each channel, or say with `layout` where the channels lie.",
        )


_LEAST_DIMS = 2
_MEND = "let calibrate(), train() and score() yield raw bytes (torch.uint8), batch first, or leave `prepare` out."


def _no_bytes(raw: Tensor) -> TaskError:
    return TaskError(f"inputs are {str(raw.dtype).removeprefix('torch.')}, not bytes.", where=_WHERE, mend=_MEND)


def _is_number(value: object, *, positive: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return value > 0 or not positive


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _spread(value: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * count


def _lengths(prepare: Prepare) -> set[int]:
    return {len(each) for each in (prepare.mean, prepare.std) if isinstance(each, tuple)}
