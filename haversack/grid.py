"""Grid: how real numbers are rounded to integers, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from haversack.errors import RecipeError

_BLOCK = (1 << 15) - 1
"""How many numbers are rounded at a time: they stay in the processor's cache, and torch starts no threads for them."""
_WITHOUT_FRACTION = 1.5 * 2**23
"""Around this number, float32 has no places behind the point."""
_LEAST_HALF = torch.finfo(torch.float16).smallest_normal


@dataclass(frozen=True)
class Grid:
    """The integers `qmin..qmax`, their step and the integer that stands for 0.0.

    `scale` holds one positive step per tensor (`axis` None) or one per slice along `axis`; `zero_point` is as long as
    `scale`. real = (integer - zero_point) * scale: the affine scheme of Jacob et al. 2018. Both are empty on the grid
    of a value that layers round as it comes, to 8 bits without a sign that span it (`DYNAMIC`).
    """

    bits: int
    signed: bool
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    qmin: int = 0
    qmax: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise RecipeError(f"a grid of {self.bits} bits.", mend="write 2 to 32 bits.")
        low, high = (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)
        if self.qmin == self.qmax == 0:
            object.__setattr__(self, "qmin", low)
            object.__setattr__(self, "qmax", high)
        if not low <= self.qmin < self.qmax <= high:
            raise RecipeError(f"the integers {self.qmin}..{self.qmax} do not fit into {self.bits} bits.")
        single = self.is_dynamic if not self.scale else len(self.scale) == 1
        if len(self.scale) != len(self.zero_point) or (self.axis is None and not single):
            raise RecipeError("a grid needs as many zero points as scales, and exactly one of each without an axis.")
        if self.axis is not None and self.axis < 0:
            raise RecipeError(f"a grid's axis is {self.axis}.", mend="count dimensions from the front, from 0 on.")
        if not all(0 < scale < math.inf for scale in self.scale):
            raise RecipeError("a grid's scale must be positive and finite.")
        if not all(self.qmin <= zero <= self.qmax for zero in self.zero_point):
            raise RecipeError("a grid's zero point must be one of its integers, or 0.0 would not be exact.")

    def quantize(self, real: Tensor) -> Tensor:
        """Nearest integers (ties to even) of `real`, clamped to the grid; int32, same shape."""
        return self._integers(real, *self._spread(real.dim())).to(torch.int32)

    def stored(self, real: Tensor) -> Tensor:
        """What `quantize` gives, in the type that files store; beside it, this takes next to no memory."""
        scale, zero = self._spread(real.dim())
        stored = torch.empty_like(real, dtype=self.dtype, requires_grad=False)
        for rows in blocks(real):
            steps, zeros = (each[rows] if self.axis == 0 else each for each in (scale, zero))
            stored[rows] = self._integers(real[rows], steps, zeros)
        return stored

    def dequantize(self, integers: Tensor) -> Tensor:
        """Real numbers that the integers stand for; float32, same shape."""
        scale, zero = self._spread(integers.dim())
        return (integers.to(scale.dtype) - zero).mul_(scale).to(torch.float32)

    def round(self, real: Tensor) -> Tensor:
        """`real` moved to the nearest points of the grid."""
        return self.dequantize(self.quantize(real))

    @property
    def is_dynamic(self) -> bool:
        """Whether its step is that of each value as it comes."""
        return not self.scale and (self.axis, self.bits, self.signed) == (None, 8, False)

    @property
    def low(self) -> float:
        """Smallest real number of a per-tensor grid."""
        return (self.qmin - self.zero_point[0]) * self.scale[0]

    @property
    def high(self) -> float:
        """Largest real number of a per-tensor grid."""
        return (self.qmax - self.zero_point[0]) * self.scale[0]

    @property
    def dtype(self) -> torch.dtype:
        """The torch type that stores the integers."""
        narrow = {True: torch.int8, False: torch.uint8}
        wide = torch.int16 if self.bits <= 16 and self.signed else torch.int32
        return narrow[self.signed] if self.bits <= 8 else wide

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `untrusted.typed` turns back into an equal grid."""
        return {**self.__dict__, "scale": list(self.scale), "zero_point": list(self.zero_point)}

    def _integers(self, real: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """The integers of `quantize`, as real numbers."""
        steps = real.to(scale.dtype) / scale
        rounded = round_(steps) if steps.dtype == torch.float32 else steps.round_()
        return rounded.add_(zero).clamp_(self.qmin, self.qmax)

    def _spread(self, dims: int) -> tuple[Tensor, Tensor]:
        # 32-bit biases need more than the 24 bits that float32 counts exactly; steps are float32 in every file.
        wide = torch.float64 if self.bits > 16 else torch.float32
        scale = torch.tensor(self.scale, dtype=torch.float32).to(wide)
        zero = torch.tensor(self.zero_point, dtype=wide)
        if self.axis is None:
            return scale, zero
        shape = [-1 if dim == self.axis else 1 for dim in range(dims)]
        return scale.view(shape), zero.view(shape)


DYNAMIC = Grid(8, False, (), ())
"""The grid of a value whose step is worked out as it comes."""


def affine(low: float, high: float, *, bits: int = 8, signed: bool = False) -> Grid:
    """A per-tensor grid that spans [low, high] widened to hold 0.0 exactly."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise RecipeError(f"no grid spans {low} to {high}.", mend="look for NaN or infinity in inputs and weights.")
    low, high = min(low, 0.0), max(high, 0.0)
    levels = (1 << bits) - 1
    qmin = -(1 << bits - 1) if signed else 0
    # What was zero throughout gets a step of common size: runtimes refuse products of steps that are too small.
    scale = max((high - low) / levels, 1e-8) if low < high else 1 / levels
    zero = min(max(round(qmin - low / scale), qmin), qmin + levels)
    # float32 is what every file stores: round now, so that torch and the file use the same step.
    scale = float(torch.tensor(scale, dtype=torch.float32))
    return Grid(bits, signed, (scale,), (int(zero),))


def round_(numbers: Tensor) -> Tensor:
    """Nearest integers (ties to even) of float32 numbers, in place; beyond 2^22, numbers beyond 2^22.

    torch's own rounding starts threads at every call, which on a busy machine takes a thousand times as long.
    """
    return numbers.add_(_WITHOUT_FRACTION).sub_(_WITHOUT_FRACTION)


def blocks(tensor: Tensor) -> Iterator[slice]:
    """Slices of the first dimension that are small enough for the processor's cache, and together all of it."""
    rows = len(tensor)
    size = max(1, _BLOCK * rows // max(tensor.numel(), 1))
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def symmetric(limits: Tensor, *, axis: int | None, bits: int = 8) -> Grid:
    """A signed grid with zero point 0 and integers -(2^(b-1)-1)..2^(b-1)-1, `limits` being the largest magnitudes."""
    top = (1 << bits - 1) - 1
    steps = tuple(steps_of(limits.reshape(-1), top).tolist())
    return Grid(bits, True, steps, (0,) * len(steps), axis, -top, top)


def halved(steps: Tensor) -> Tensor:
    """The nearest numbers of float16, two bytes each; the steps themselves where one is too small or large for it."""
    halves = steps.half()
    fits = bool((halves >= _LEAST_HALF).all() and halves.isfinite().all())
    return halves.float() if fits else steps


def steps_of(limits: Tensor, top: int) -> Tensor:
    """The steps with which the integer `top` stands for these magnitudes, float32; none is so small that it is zero."""
    return (limits.detach().to(torch.float32) / top).clamp_min(1e-8)
