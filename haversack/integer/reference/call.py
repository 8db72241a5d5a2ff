"""What a kernel of the NumPy reference is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.integer import Array, Operation, Value
from haversack.integer.arithmetic import round_half_away

FLOAT_LIMITS = {
    "NONE": (-np.inf, np.inf),
    "RELU": (0.0, np.inf),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU6": (0.0, 6.0),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One operation with the values it reads and writes and the arrays that it reads, which may hold a batch."""

    operation: Operation
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    arrays: tuple[Array | None, ...]

    @property
    def integer(self) -> bool:
        """Whether the operation is computed on integers."""
        return self.outputs[0].grid is not None

    def has(self, index: int) -> bool:
        """Whether input `index` is there: the last ones may be left out."""
        return index < len(self.arrays) and self.arrays[index] is not None

    def array(self, index: int) -> Array:
        """Input `index` as it is stored."""
        return np.asarray(self.arrays[index])

    def centred(self, index: int) -> Array:
        """Input `index` less its zero point in int64; float32 as it is when it has no grid."""
        value = self.inputs[index]
        if value is None or value.grid is None:
            return self.array(index)
        return self.array(index).astype(np.int64) - value.grid.zero_point[0]

    def option(self, name: str) -> Any:  # noqa: ANN401 - an option is a number, a word or a pair
        """The operation's option `name`."""
        return self.operation.option(name)

    def scale(self, index: int) -> float:
        """The step of input `index` as a file stores it: rounded to float32."""
        return step(self.inputs[index])

    @property
    def output_scale(self) -> float:
        """The step of the first output, rounded to float32."""
        return step(self.outputs[0])

    @property
    def zero_point(self) -> int:
        """The integer that stands for 0.0 in the first output."""
        grid = self.outputs[0].grid
        return 0 if grid is None else grid.zero_point[0]

    def finish(self, result: Array) -> Array:
        """`result`, counted from zero, with the output's zero point, its fused activation and its type."""
        dtype = np.dtype(self.outputs[0].dtype)
        if not self.integer:
            low, high = FLOAT_LIMITS[self.operation.options.get("activation", "NONE")]
            return np.asarray(np.clip(result, dtype.type(low), dtype.type(high)), dtype)
        return np.asarray(np.clip(result + self.zero_point, *self._limits(dtype)), dtype)

    def _limits(self, dtype: np.dtype[Any]) -> tuple[int, int]:
        """The smallest and largest integer that the fused activation lets through."""
        info = np.iinfo(dtype)
        low, high = FLOAT_LIMITS[self.operation.options.get("activation", "NONE")]
        # The division is float32's, as in the kernels.
        bottom = info.min if np.isinf(low) else self.zero_point + quotient(low, self.output_scale)
        top = info.max if np.isinf(high) else self.zero_point + quotient(high, self.output_scale)
        return max(info.min, bottom), min(info.max, top)


def quotient(real: float, scale: float) -> int:
    """How many steps `real` is, counted in float32 and rounded half away from zero."""
    return int(round_half_away(np.asarray(np.float32(real) / np.float32(scale))))


def step(value: Value | None) -> float:
    """The one step of a value's grid, rounded to float32."""
    if value is None or value.grid is None:
        return 1.0
    return float(np.float32(value.grid.scale[0]))


def steps(value: Value | None) -> Array:
    """All steps of a value's grid, rounded to float32 and held in float64."""
    if value is None or value.grid is None:
        return np.ones(1)
    return np.asarray(value.grid.scale, np.float32).astype(np.float64)


Kernel = Callable[[Call], Array | tuple[Array, ...]]
