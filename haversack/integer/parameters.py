"""Parameters: what an operation computes with beside its values, as plain numbers: what a C writer prints.

Integers are 32 bits wide where nothing else is said; a real operation has the same fields, without zero points and
factors. A result `x`, counted from zero, becomes min(max(x + zero_point, low), high) of its `Output`.
"""

from __future__ import annotations

from dataclasses import dataclass

from haversack.integer import Array
from haversack.integer.arithmetic import Multiplier
from haversack.integer.windows import Pair, Sides, Window


@dataclass(frozen=True)
class Output:
    """How results end: what is added to them, and between which numbers of which type they are kept."""

    dtype: str
    zero_point: int
    low: float
    high: float


@dataclass(frozen=True)
class Same:
    """Numbers stay what they are, or their function has no parameters."""


@dataclass(frozen=True, eq=False)
class Products:
    """Sums of (x - input_zero) * weight, and a bias; times `by`, one factor an output channel or one for all.

    `wide` sums have 64 bits, and are multiplied by factors cut to 16 bits.
    """

    input_zero: int
    by: Multiplier | None
    wide: bool
    output: Output


@dataclass(frozen=True, eq=False)
class RoundedProducts(Products):
    """The same of real numbers by integers of these `steps`, one an output channel or one for all.

    Each row that is read becomes integers -128..127 of a step with which they span it and zero, whose products are
    summed and multiplied by both steps.
    """

    steps: Array


@dataclass(frozen=True, eq=False)
class WindowedProducts(Products):
    """The same under a window. `sides` is how many zeros, which stand as input_zero, lie around height and width.

    For a transposed convolution it is how many rows and columns of the whole result are cut off.
    """

    window: Window
    sides: Sides


@dataclass(frozen=True)
class Pooled:
    """The largest or the mean number under a window; what lies at its `sides` does not count."""

    window: Window
    sides: Sides
    output: Output


@dataclass(frozen=True, eq=False)
class Sum:
    """Both sides less their zeros, shifted left by `room` and multiplied by a factor each; added; multiplied by `by`.

    `sign` is -1 where the second is subtracted.
    """

    zeros: Pair
    room: int
    sides: tuple[Multiplier, Multiplier] | None
    by: Multiplier | None
    sign: int
    output: Output


@dataclass(frozen=True, eq=False)
class Product:
    """(left - its zero) * (right - its zero), times `by`; of real numbers, the quotient where the kind says so."""

    zeros: Pair
    by: Multiplier | None
    output: Output


@dataclass(frozen=True)
class MatrixProduct:
    """Products of the matrices that the last two axes hold, each of them turned where that is said."""

    turns_left: bool
    turns_right: bool


@dataclass(frozen=True, eq=False)
class Pieces:
    """x - input_zero times one factor where it is positive, and another where it is below zero.

    Real numbers below zero are multiplied by `slope`.
    """

    input_zero: int
    above: Multiplier | None
    below: Multiplier | None
    slope: float
    output: Output


@dataclass(frozen=True, eq=False)
class Lookup:
    """What each of the integers -128..127 becomes, in their order."""

    table: Array


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The 16-bit logistic or tanh: z = (x * factor + half of 2^shift) >> shift, looked up between two of 256 places.

    The table holds logistic(i / 24) in units of 2^-16; z counts in 1 / (3 * 4096).
    """

    factor: int
    shift: int
    table: Array


@dataclass(frozen=True)
class Gelu:
    """A real number times the share of a normal distribution below it, or what a tanh makes of that."""

    approximate: bool


@dataclass(frozen=True)
class RealSoftmax:
    """Softmax of real numbers times `beta`."""

    beta: float


@dataclass(frozen=True, eq=False)
class Softmax8:
    """exp of every difference -255..0 to the largest number, in units of 2^-31; 0 where it is negligible."""

    exp: Array


@dataclass(frozen=True, eq=False)
class Softmax16:
    """The difference to the largest number times `by` is looked up in `exp`, the sum of a row in `inverse`.

    Both tables have 513 places, between which results are linear: exp over -10..0, 1 / (1 + x) over 0..1.
    """

    by: Multiplier
    exp: Array
    inverse: Array


@dataclass(frozen=True)
class ToIntegers:
    """Real numbers divided by `step`, rounded half away from zero."""

    step: float
    output: Output


@dataclass(frozen=True, eq=False)
class ToReal:
    """(x - zero) * step; `axis` is the one along which these differ."""

    zeros: Array
    steps: Array
    axis: int | None


@dataclass(frozen=True)
class Reduction:
    """The axes over which numbers are taken together, and whether they stay, one long."""

    axes: tuple[int, ...]
    keep_dims: bool


@dataclass(frozen=True, eq=False)
class Mean(Reduction):
    """The sum over these axes, less the zero of each number, times `by`, which divides by their count."""

    input_zero: int
    by: Multiplier | None
    output: Output


@dataclass(frozen=True)
class Joined:
    """Values one after the other along `axis`."""

    axis: int
    output: Output


@dataclass(frozen=True)
class Parts:
    """So many equal parts along `axis`."""

    axis: int
    count: int


@dataclass(frozen=True)
class Border:
    """How many of the number `fill` stand before and behind along each axis."""

    sides: tuple[Pair, ...]
    fill: float


@dataclass(frozen=True)
class Turned:
    """The axis of the input that lies along each axis of the output."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Steps:
    """Along each axis, where to begin, how many to take, how far apart, and whether that is the whole axis."""

    begins: tuple[int, ...]
    counts: tuple[int, ...]
    strides: tuple[int, ...]
    whole: tuple[bool, ...]


@dataclass(frozen=True, eq=False)
class Nearest:
    """The row and the column that each row and column of the output is a copy of."""

    rows: Array
    columns: Array


Parameters = (
    Same
    | Products
    | Pooled
    | Sum
    | Product
    | MatrixProduct
    | Pieces
    | Lookup
    | Interpolation
    | Gelu
    | RealSoftmax
    | Softmax8
    | Softmax16
    | ToIntegers
    | ToReal
    | Reduction
    | Joined
    | Parts
    | Border
    | Turned
    | Steps
    | Nearest
)
