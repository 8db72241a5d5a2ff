"""What a kernel of the NumPy reference is given beside its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from haversack.integer import Array, Operation, Value
from haversack.integer.arithmetic import Multiplier, multiply
from haversack.integer.parameters import Output


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One operation with the values that it makes and the arrays that it reads, which may hold a batch."""

    operation: Operation
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


def centred(x: Array, zero_point: int) -> Array:
    """Integers less their zero point, in int64; real numbers as they are."""
    return x if x.dtype.kind == "f" else x.astype(np.int64) - zero_point


def scaled(x: Array, by: Multiplier | None) -> Array:
    """Integers times a factor; real numbers as they are."""
    return x if by is None else multiply(x, by)


def finish(x: Array, output: Output) -> Array:
    """Results counted from zero, with the output's zero point, its fused activation and its type."""
    dtype = np.dtype(output.dtype)
    if dtype.kind == "f":
        return np.asarray(np.clip(x, dtype.type(output.low), dtype.type(output.high)), dtype)
    return np.asarray(np.clip(x + output.zero_point, int(output.low), int(output.high)), dtype)


# Each kernel takes the parameters that `lowering` gives its kind.
Kernel = Callable[[KernelCall, Any], Array | tuple[Array, ...]]
