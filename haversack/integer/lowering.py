"""Lowering: the numbers that an operation computes with, once for the reference and for whoever writes code.

Steps are rounded to float32, as files store them, and what is made of them is computed as TFLite does it: in float64,
but for the limits of activations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NoReturn

import numpy as np

from haversack.errors import ExportError
from haversack.integer import KINDS, Array, IntegerGraph, Operation, Value
from haversack.integer.arithmetic import Multiplier, quantize_multiplier, round_half_away
from haversack.integer.curves import interpolation_table, sigmoid_table
from haversack.integer.parameters import (
    Border,
    Gelu,
    Interpolation,
    Joined,
    Lookup,
    MatrixProduct,
    Mean,
    Nearest,
    Output,
    Parameters,
    Parts,
    Pieces,
    Pooled,
    Product,
    Products,
    RealSoftmax,
    Reduction,
    RoundedProducts,
    Same,
    Softmax8,
    Softmax16,
    Steps,
    Sum,
    ToIntegers,
    ToReal,
    Turned,
    WindowedProducts,
)
from haversack.integer.tables import curve_scale, softmax_table
from haversack.integer.windows import Window

_LIMITS = {"NONE": (-math.inf, math.inf), "RELU": (0.0, math.inf), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0)}
_SOFTMAX16_RANGE = 10.0
_MOST_SHIFT, _MOST_WIDE_SHIFT = 30, 14
"""Bits to the left that a product of 32 bits, and one of 64, can be shifted by."""


def parameters(graph: IntegerGraph, operation: Operation) -> Parameters:
    """What the operation computes with beside its values. Raises ExportError for one that `KINDS` does not know."""
    lower = _TABLE.get(operation.kind)
    if lower is None:
        raise ExportError(f"the integer graph has no {operation.kind}.", where=operation.path)
    return lower(_Values(graph, operation))


class _Values:
    """An operation with its values by name."""

    def __init__(self, graph: IntegerGraph, operation: Operation) -> None:
        self.graph, self.operation = graph, operation
        self.result = graph.values[operation.outputs[0]]
        self.data = graph.values[operation.inputs[KINDS[operation.kind].data]]

    def __getitem__(self, name: str) -> Value:
        return self.graph.values[self.operation.input(name)]

    @property
    def integer(self) -> bool:
        """Whether it is computed on integers."""
        return self.result.grid is not None

    def refuse(self, why: str) -> NoReturn:
        """Raises the error of an operation that no integer arithmetic of TFLite computes."""
        raise ExportError(f"{self.operation.kind}: {why}.", where=self.operation.path)

    def numbers(self, name: str) -> tuple[int, ...]:
        """The plain integers that a constant holds."""
        return tuple(int(number) for number in np.asarray(self[name].data).reshape(-1))

    def factor(self, step: float | Array) -> Multiplier | None:
        """What a count of such steps is multiplied by to count the result's; None for real numbers."""
        by = quantize_multiplier(step / _step(self.result)) if self.integer else None
        if by is not None and np.any(by.shift > _MOST_SHIFT):
            self.refuse("its result's step is too small beside what it reads")
        return by

    def axis(self, number: int, value: Value) -> int:
        """An axis counted from the front."""
        return number % len(value.shape)

    def output(self, activation: str = "") -> Output:
        """How the result ends, with its fused activation, or this one."""
        word = activation or self.operation.options.get("activation", "NONE")
        dtype, (low, high) = self.result.dtype, _LIMITS[word]
        if not self.integer:
            return Output(dtype, 0, low, high)
        info, zero, step = np.iinfo(dtype), _zero(self.result), _step(self.result)
        bottom = info.min if math.isinf(low) else zero + _quotient(low, step)
        top = info.max if math.isinf(high) else zero + _quotient(high, step)
        return Output(dtype, zero, max(info.min, bottom), min(info.max, top))


def _quotient(real: float, step: float) -> int:
    """How many steps `real` is, counted in float32 and rounded half away from zero."""
    return int(round_half_away(np.asarray(np.float32(real) / np.float32(step))))


def _step(value: Value) -> float:
    """The one step of a value, 1.0 where it has none."""
    return 1.0 if value.grid is None else float(np.float32(value.grid.scale[0]))


def _steps(value: Value) -> Array:
    """All steps of a value, in float64."""
    return np.ones(1) if value.grid is None else np.asarray(value.grid.scale, np.float32).astype(np.float64)


def _zero(value: Value) -> int:
    return 0 if value.grid is None else value.grid.zero_point[0]


def _products(row: _Values) -> Products:
    by, wide = row.factor(_step(row.data) * _steps(row["weight"])), _is_wide(row)
    if by is not None and wide and np.any(by.shift > _MOST_WIDE_SHIFT):
        row.refuse("its result's step is too small beside what it reads")
    if not row.integer and row["weight"].grid is not None:
        return RoundedProducts(0, None, wide, row.output(), _steps(row["weight"]))
    return Products(_zero(row.data), by, wide, row.output())


def _is_wide(row: _Values) -> bool:
    """Whether TFLite adds up in 64 bits: for 16-bit activations, but for a CONV_2D whose bias has 32."""
    bias = row.operation.input("bias")
    narrow = row.operation.kind == "CONV_2D" and bias and row.graph.values[bias].dtype == "int32"
    return row.result.dtype == "int16" and not narrow


def _windowed(row: _Values) -> WindowedProducts:
    operation, kernel = row.operation, row["weight"].shape[1:3]
    transposed = operation.kind == "TRANSPOSE_CONV"
    dilation = (1, 1) if transposed else operation.option("dilation")
    window = Window((kernel[0], kernel[1]), operation.option("stride"), dilation)
    sides = window.sides(operation.option("padding"), (row.result if transposed else row.data).shape[1:3])
    sums = _products(row)
    return WindowedProducts(sums.input_zero, sums.by, sums.wide, sums.output, window, sides)


def _pool(row: _Values) -> Pooled:
    option = row.operation.option
    window = Window(option("filter"), option("stride"))
    return Pooled(window, window.sides(option("padding"), row.data.shape[1:3]), row.output())


def _sum(sign: int) -> Callable[[_Values], Sum]:
    """Both sides on twice the larger step, with 20 (int8) or 15 (int16) more bits."""

    def lower(row: _Values) -> Sum:
        left, right = row["left"], row["right"]
        zeros, room = (_zero(left), _zero(right)), 15 if row.result.dtype == "int16" else 20
        if not row.integer:
            return Sum(zeros, 0, None, None, sign, row.output())
        twice = 2 * max(_step(left), _step(right))
        sides = quantize_multiplier(_step(left) / twice), quantize_multiplier(_step(right) / twice)
        return Sum(zeros, room, sides, row.factor(twice / (1 << room)), sign, row.output())

    return lower


def _product(row: _Values) -> Product:
    left, right = row["left"], row["right"]
    return Product((_zero(left), _zero(right)), row.factor(_step(left) * _step(right)), row.output())


def _pieces(activation: str = "NONE") -> Callable[[_Values], Pieces]:
    """An activation on its own, or another grid."""

    def lower(row: _Values) -> Pieces:
        by = row.factor(_step(row.data))
        return Pieces(_zero(row.data), by, by, 1.0, row.output(activation))

    return lower


def _relu6(row: _Values) -> Pieces:
    """The input's integers cut at 0.0 and 6.0: both grids are one."""
    row.result = Value(row.result.name, row.result.shape, row.result.dtype, row.data.grid)
    return Pieces(_zero(row.data), None, None, 1.0, row.output("RELU6"))


def _leaky(row: _Values) -> Pieces:
    alpha = np.float32(row.operation.option("alpha"))
    above, below = row.factor(_step(row.data)), row.factor(_step(row.data) * float(alpha))
    return Pieces(_zero(row.data), above, below, float(alpha), row.output())


def _curve(row: _Values) -> Parameters:
    """A kind's own function: tables of it, where it is computed on integers."""
    curve = KINDS[row.operation.kind].curve
    if curve is None or curve.table is None or not row.integer:
        return Same()
    if row.data.dtype == "int16":
        return Interpolation(*curve_scale(_step(row.data), curve.exact_shifts), sigmoid_table())
    if curve.least * _step(row.data) >= _step(row.result):
        row.refuse("its result's step is too small beside what it reads")
    return Lookup(curve.table((_step(row.data), _zero(row.data)), (_step(row.result), _zero(row.result))))


def _softmax(row: _Values) -> Parameters:
    beta = float(np.float32(row.operation.option("beta")))
    if not row.integer:
        return RealSoftmax(beta)
    if beta * _step(row.data) <= 2.0**-26:
        row.refuse("the step of what it reads is too small")
    if row.data.dtype == "int8":
        return Softmax8(softmax_table(beta * _step(row.data)))
    by = quantize_multiplier(_step(row.data) * beta / (_SOFTMAX16_RANGE / 65535.0))
    exp = interpolation_table(lambda x: np.exp(x.astype(np.float64)).astype(np.float32), -_SOFTMAX16_RANGE, 0.0)
    inverse = interpolation_table(lambda x: np.float32(1) / (np.float32(1) + x), 0.0, 1.0)
    return Softmax16(by, exp, inverse)


def _quantize(row: _Values) -> Parameters:
    return ToIntegers(_step(row.result), row.output()) if row.data.grid is None else _pieces()(row)


def _dequantize(row: _Values) -> Parameters:
    grid = row.data.grid
    return Same() if grid is None else ToReal(np.asarray(grid.zero_point, np.int64), _steps(row.data), grid.axis)


def _reduction(row: _Values) -> Reduction:
    axes = {row.axis(axis, row.data) for axis in row.numbers("axes")}
    return Reduction(tuple(sorted(axes)), row.operation.option("keep_dims"))


def _mean(row: _Values) -> Mean:
    over, by = _reduction(row), row.factor(_step(row.data))
    if by is not None:
        count = math.prod(row.data.shape[axis] for axis in over.axes)
        shift = min(count.bit_length() - 1, 32, 31 + int(by.shift))
        by = Multiplier(np.asarray((by.mantissa << shift) // count), np.asarray(by.shift - shift))
    return Mean(over.axes, over.keep_dims, _zero(row.data), by, row.output())


def _matrix_product(row: _Values) -> MatrixProduct:
    return MatrixProduct(row.operation.option("adj_x"), row.operation.option("adj_y"))


def _joined(row: _Values) -> Joined:
    return Joined(row.axis(row.operation.option("axis"), row.result), row.output())


def _parts(row: _Values) -> Parts:
    return Parts(row.axis(row.numbers("axis")[0], row.data), row.operation.option("num_splits"))


def _border(row: _Values) -> Border:
    amounts = row.numbers("paddings")
    fill = _zero(row.data)
    if row.operation.kind == "PADV2":
        fill = np.asarray(row["value"].data).reshape(-1)[0].item()
    return Border(tuple(zip(amounts[::2], amounts[1::2], strict=True)), fill)


def _steps_taken(row: _Values) -> Steps:
    """From begin to end by strides, as in Python; a set bit of a mask means from the start, or to the end."""
    begins, ends, strides = (row.numbers(name) for name in ("begin", "end", "strides"))
    from_start, to_end, single = (row.operation.option(f"{name}_mask") for name in ("begin", "end", "shrink_axis"))
    taken = []
    for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        bit, size = 1 << axis, row.data.shape[axis]
        if single & bit:
            taken.append((begin % size, 1, 1, size == 1))
            continue
        cut = slice(None if from_start & bit else begin, None if to_end & bit else end, stride)
        along = range(*cut.indices(size))
        taken.append((along.start, len(along), stride, along == range(size)))
    begins, counts, strides, whole = zip(*taken, strict=True)
    return Steps(begins, counts, strides, whole)


def _nearest(row: _Values) -> Nearest:
    rows, columns = (
        _copied(length, size, row.operation)
        for length, size in zip(row.data.shape[1:3], row.result.shape[1:3], strict=True)
    )
    return Nearest(rows, columns)


def _copied(length: int, size: int, operation: Operation) -> Array:
    """Which of `length` places each of `size` places reads; the arithmetic is float32's."""
    corners = operation.option("align_corners") and size > 1
    scale = np.float32(length - 1) / np.float32(size - 1) if corners else np.float32(length) / np.float32(size)
    offset = np.float32(0.5 if operation.option("half_pixel_centers") else 0)
    place = (np.arange(size, dtype=np.float32) + offset) * scale
    place = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.asarray(np.clip(place, 0, length - 1), np.intp)


def _same(_: _Values) -> Same:
    return Same()


_TABLE: Mapping[str, Callable[[_Values], Parameters]] = {
    **{kind: _curve for kind, row in KINDS.items() if row.curve},
    "ADD": _sum(1),
    "AVERAGE_POOL_2D": _pool,
    "BATCH_MATMUL": _matrix_product,
    "CAST": _same,
    "CONCATENATION": _joined,
    "CONV_2D": _windowed,
    "DEPTHWISE_CONV_2D": _windowed,
    "DEQUANTIZE": _dequantize,
    "DIV": _product,
    "FULLY_CONNECTED": _products,
    "GATHER": _same,
    "GELU": lambda row: Gelu(row.operation.option("approximate")),
    "LEAKY_RELU": _leaky,
    "MAXIMUM": _same,
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "MINIMUM": _same,
    "MUL": _product,
    "PAD": _border,
    "PADV2": _border,
    "QUANTIZE": _quantize,
    "REDUCE_MAX": _reduction,
    "RELU": _pieces("RELU"),
    "RELU6": _relu6,
    "RELU_N1_TO_1": _pieces("RELU_N1_TO_1"),
    "RESHAPE": _same,
    "RESIZE_NEAREST_NEIGHBOR": _nearest,
    "SOFTMAX": _softmax,
    "SPLIT": _parts,
    "STRIDED_SLICE": _steps_taken,
    "SUB": _sum(-1),
    "SUM": _reduction,
    "TRANSPOSE": lambda row: Turned(row.numbers("permutation")),
    "TRANSPOSE_CONV": _windowed,
}
