"""Tensors: what a file can hold under a name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from haversack.coded.arrays import KINDS
from haversack.errors import CodedError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Raw:
    """Numbers as they are, of one of the kinds in `arrays.KINDS`."""

    values: Array

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype.newbyteorder("<") not in KINDS:
            raise CodedError(f"numbers of type {values.dtype}.", mend="convert them to float32 or whole numbers.")
        object.__setattr__(self, "values", values)

    @property
    def real(self) -> Array:
        """The numbers."""
        return self.values

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.values.shape)


@dataclass(frozen=True, eq=False)
class Integers:
    """Integers of 2 to 16 bits on a grid: real = (integer - zero point) * scale.

    `scale` is float32 and holds one step (`axis` None), one a slice along `axis`, or along axis 0 one for every group
    of consecutive elements. `zero_point` is int32 and as long, or empty where all are 0. `narrow` grids leave out the
    lowest integer. `values` becomes int8, uint8, int16 or uint16, whichever `bits` and `signed` name.
    """

    values: Array
    scale: Array
    zero_point: Array = field(default_factory=lambda: np.zeros(0, np.int32))
    axis: int | None = None
    bits: int = 8
    signed: bool = True
    narrow: bool = True

    def __post_init__(self) -> None:
        dtype = integer_type(self.bits, signed=self.signed)
        values = np.asarray(self.values)
        lowest = -(1 << self.bits - 1) if self.signed else 0
        if values.size and not lowest <= int(values.min()) <= int(values.max()) < lowest + (1 << self.bits):
            raise CodedError(f"integers {values.min()} to {values.max()} on a grid of {self.bits} bits.")
        object.__setattr__(self, "values", values.astype(dtype))
        object.__setattr__(self, "scale", np.asarray(self.scale, np.float32).reshape(-1))
        object.__setattr__(self, "zero_point", np.asarray(self.zero_point, np.int32).reshape(-1))
        if not self.zero_point.any():
            object.__setattr__(self, "zero_point", np.zeros(0, np.int32))
        _check_steps(self)

    @property
    def real(self) -> Array:
        """The real numbers, float32."""
        rows = (self.scale.size, -1) if self.axis == 0 else self.shape
        spread = [-1 if dim == self.axis else 1 for dim in range(len(rows))]
        numbers = self.values.reshape(rows).astype(np.float32)
        if self.zero_point.size:
            numbers -= self.zero_point.reshape(spread)
        numbers *= self.scale.reshape(spread)
        return numbers.reshape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.values.shape)


@dataclass(frozen=True, eq=False)
class Codebook:
    """Few different numbers: `centroids`, float32, at most 256, and which of them each element is, uint8."""

    indices: Array
    centroids: Array

    def __post_init__(self) -> None:
        indices, count = np.asarray(self.indices), np.asarray(self.centroids).size
        if not 1 <= count <= 256:
            raise CodedError(f"a codebook of {count} numbers.", mend="let it have 1 to 256.")
        if indices.size and not 0 <= int(indices.min()) <= int(indices.max()) < count:
            raise CodedError(f"indices {indices.min()} to {indices.max()} into a codebook of {count} numbers.")
        object.__setattr__(self, "indices", indices.astype(np.uint8))
        object.__setattr__(self, "centroids", np.asarray(self.centroids, np.float32).reshape(-1))

    @property
    def real(self) -> Array:
        """The numbers, float32."""
        return np.asarray(self.centroids[self.indices])

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.indices.shape)


Stored = Raw | Integers | Codebook


def alike(one: Stored, other: Stored) -> bool:
    """Whether a device computes with the same to the bit, in whatever form it is stored.

    Integers are alike where they, their steps and their grids are; all others where the real numbers are, so that a
    codebook may be like raw numbers. A negative zero is none, and one NaN is not another.
    """
    if isinstance(one, Integers) and isinstance(other, Integers):
        grids = [
            (each.bits, each.signed, each.narrow, each.axis if each.scale.size > 1 else None) for each in (one, other)
        ]
        parts = ((one.values, other.values), (one.scale, other.scale), (one.zero_point, other.zero_point))
        return grids[0] == grids[1] and all(_same_bits(*pair) for pair in parts)
    return not isinstance(one, Integers) and not isinstance(other, Integers) and _same_bits(one.real, other.real)


def _same_bits(one: Array, other: Array) -> bool:
    ours, theirs = (np.asarray(each, each.dtype.newbyteorder("<")) for each in (one, other))
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes()


def integer_type(bits: int, *, signed: bool) -> np.dtype[Any]:
    """The numpy type that integers of so many bits are read as."""
    if not 2 <= bits <= 16:
        raise CodedError(f"integers of {bits} bits.", mend="let them have 2 to 16.")
    return np.dtype(("u" if not signed else "") + ("int8" if bits <= 8 else "int16"))


def _check_steps(tensor: Integers) -> None:
    """Raises CodedError unless there are as many steps as the tensor's axis asks for."""
    shape, axis, steps = tensor.shape, tensor.axis, tensor.scale.size
    if axis is None:
        fits = steps == 1
    elif not 0 <= axis < len(shape):
        fits = False
    elif axis == 0:
        fits = steps > 0 and steps % max(shape[0], 1) == 0 and tensor.values.size % steps == 0
    else:
        fits = steps == shape[axis]
    if not fits or tensor.zero_point.size not in (0, steps):
        raise CodedError(
            f"{steps} steps and {tensor.zero_point.size} zero points for a tensor of shape {shape} and axis {axis}.",
            mend="give one of each a slice along the axis, or one in all.",
        )
