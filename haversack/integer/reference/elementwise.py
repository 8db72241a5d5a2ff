"""Sums and products of two values, piecewise linear functions, and the way between grids and real numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import round_half_away
from haversack.integer.parameters import Pieces, Product, Same, Sum, ToIntegers, ToReal
from haversack.integer.reference.call import Kernel, KernelCall, centred, finish, scaled


def add(call: KernelCall, by: Sum) -> Array:
    """ADD and SUB, either side stretched where it has length 1."""
    left, right = (centred(call.array(side), by.zeros[side]) for side in (0, 1))
    if by.sides is not None:
        left, right = scaled(left << by.room, by.sides[0]), scaled(right << by.room, by.sides[1])
    return finish(scaled(left + right if by.sign > 0 else left - right, by.by), by.output)


def product(call: KernelCall, by: Product) -> Array:
    """MUL, either side stretched where it has length 1."""
    left, right = (centred(call.array(side), by.zeros[side]) for side in (0, 1))
    return finish(scaled(left * right, by.by), by.output)


def quotient(call: KernelCall, by: Product) -> Array:
    """DIV of real numbers, either side stretched where it has length 1."""
    return finish(call.array(0) / call.array(1), by.output)


def tabulated(x: Array, function: Callable[[Array], Array]) -> Array:
    """`function` of every integer that the input's type holds, looked up: exact and fast."""
    info = np.iinfo(x.dtype)
    table = function(np.arange(info.min, info.max + 1, dtype=np.int64))
    return np.asarray(table[x.astype(np.intp) - info.min])


def piecewise(call: KernelCall, by: Pieces) -> Array:
    """RELU, RELU6, RELU_N1_TO_1, LEAKY_RELU, and QUANTIZE of integers."""
    x = call.array(0)
    if not call.integer:
        return finish(x if by.slope == 1 else np.where(x > 0, x, x * np.float32(by.slope)), by.output)

    def function(x: Array) -> Array:
        x = x - by.input_zero
        return finish(np.where(x >= 0, scaled(x, by.above), scaled(x, by.below)), by.output)

    return tabulated(x, function)


def maximum(call: KernelCall, _: Same) -> Array:
    """MAXIMUM of two values of one grid."""
    return np.asarray(np.maximum(call.array(0), call.array(1)))


def minimum(call: KernelCall, _: Same) -> Array:
    """MINIMUM of two values of one grid."""
    return np.asarray(np.minimum(call.array(0), call.array(1)))


def quantize(call: KernelCall, by: ToIntegers | Pieces) -> Array:
    """QUANTIZE: real numbers to the nearest integers (ties away from zero), or integers of one grid to another's."""
    if isinstance(by, Pieces):
        return piecewise(call, by)
    count = round_half_away(call.array(0) / np.float32(by.step))
    info = np.iinfo(np.int32)
    return finish(np.clip(count.astype(np.float64), info.min, info.max).astype(np.int64), by.output)


def dequantize(call: KernelCall, by: ToReal | Same) -> Array:
    """DEQUANTIZE: the real numbers that integers stand for, float32; with one step per slice where the grid has."""
    x = call.array(0)
    if isinstance(by, Same):
        return x.astype(np.float32)
    shape = [-1 if dim == by.axis else 1 for dim in range(x.ndim)]
    return np.asarray((x.astype(np.int64) - by.zeros.reshape(shape)) * by.steps.reshape(shape), np.float32)


def cast(call: KernelCall, _: Same) -> Array:
    """CAST: whole numbers as real ones."""
    return call.array(0).astype(np.float32)


KERNELS: dict[str, Kernel] = {
    "ADD": add,
    "SUB": add,
    "MUL": product,
    "DIV": quotient,
    "RELU": piecewise,
    "RELU6": piecewise,
    "RELU_N1_TO_1": piecewise,
    "LEAKY_RELU": piecewise,
    "MAXIMUM": maximum,
    "MINIMUM": minimum,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
    "CAST": cast,
}
