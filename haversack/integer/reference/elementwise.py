"""Sums and products of two values, piecewise linear functions, and the way between grids and real numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import multiply, quantize_multiplier, round_half_away
from haversack.integer.reference.call import Call, Kernel, quotient, steps


def add(call: Call) -> Array:
    """ADD, either side stretched where it has length 1."""
    return _sum(call, 1)


def subtract(call: Call) -> Array:
    """SUB, either side stretched where it has length 1."""
    return _sum(call, -1)


def _sum(call: Call, sign: int) -> Array:
    """Both sides on twice the larger step, with 20 (int8) or 15 (int16) more bits, added, then on the output's step."""
    if not call.integer:
        return call.finish(call.array(0) + np.float32(sign) * call.array(1))
    room = 15 if call.outputs[0].dtype == "int16" else 20
    twice = 2 * max(call.scale(0), call.scale(1))
    first, second = (
        multiply(call.centred(side) << room, quantize_multiplier(call.scale(side) / twice)) for side in (0, 1)
    )
    by = quantize_multiplier(twice / ((1 << room) * call.output_scale))
    return call.finish(multiply(first + sign * second, by))


def product(call: Call) -> Array:
    """MUL, either side stretched where it has length 1."""
    both = call.centred(0) * call.centred(1)
    if not call.integer:
        return call.finish(both)
    return call.finish(multiply(both, quantize_multiplier(call.scale(0) * call.scale(1) / call.output_scale)))


def tabulate(call: Call, function: Callable[[Array], Array]) -> Array:
    """`function` of every integer that the input's type holds, looked up: exact and fast."""
    x = call.array(0)
    info = np.iinfo(x.dtype)
    table = function(np.arange(info.min, info.max + 1, dtype=np.int64))
    return np.asarray(table[x.astype(np.intp) - info.min])


def _input_zero(call: Call) -> int:
    value = call.inputs[0]
    return 0 if value is None or value.grid is None else value.grid.zero_point[0]


def relu(call: Call) -> Array:
    """RELU: moved to the output's grid, then cut at its zero point."""
    if not call.integer:
        return np.maximum(call.array(0), np.float32(0))
    by = quantize_multiplier(call.scale(0) / call.output_scale)
    return tabulate(call, lambda x: call.finish(np.maximum(multiply(x - _input_zero(call), by), 0)))


def relu6(call: Call) -> Array:
    """RELU6: the input's integers cut at 0.0 and 6.0; both grids are one."""
    if not call.integer:
        return np.clip(call.array(0), np.float32(0), np.float32(6))
    zero, info = _input_zero(call), np.iinfo(call.array(0).dtype)
    six = min(max(zero + quotient(6, call.scale(0)), info.min), info.max)
    return np.clip(call.array(0), zero, six).astype(call.array(0).dtype)


def relu_n1_to_1(call: Call) -> Array:
    """RELU_N1_TO_1: moved to the output's grid, then cut at -1.0 and 1.0."""
    if not call.integer:
        return np.clip(call.array(0), np.float32(-1), np.float32(1))
    by, one = quantize_multiplier(call.scale(0) / call.output_scale), quotient(1, call.output_scale)
    return tabulate(call, lambda x: call.finish(np.clip(multiply(x - _input_zero(call), by), -one, one)))


def maximum(call: Call) -> Array:
    """MAXIMUM of two values of one grid."""
    return np.asarray(np.maximum(call.array(0), call.array(1)))


def minimum(call: Call) -> Array:
    """MINIMUM of two values of one grid."""
    return np.asarray(np.minimum(call.array(0), call.array(1)))


def leaky_relu(call: Call) -> Array:
    """LEAKY_RELU: numbers below zero times `alpha`."""
    alpha = np.float32(call.option("alpha"))
    if not call.integer:
        return np.where(call.array(0) > 0, call.array(0), call.array(0) * alpha).astype(np.float32)
    above = quantize_multiplier(call.scale(0) / call.output_scale)
    below = quantize_multiplier(call.scale(0) * float(alpha) / call.output_scale)

    def function(x: Array) -> Array:
        x = x - _input_zero(call)
        return call.finish(np.where(x >= 0, multiply(x, above), multiply(x, below)))

    return tabulate(call, function)


def quantize(call: Call) -> Array:
    """QUANTIZE: real numbers to the nearest integers (ties away from zero), or integers of one grid to another's."""
    value = call.inputs[0]
    if value is not None and value.grid is not None:
        by = quantize_multiplier(call.scale(0) / call.output_scale)
        return tabulate(call, lambda x: call.finish(multiply(x - _input_zero(call), by)))
    count = round_half_away(call.array(0) / np.float32(call.output_scale))
    info = np.iinfo(np.int32)
    return call.finish(np.clip(count.astype(np.float64), info.min, info.max).astype(np.int64))


def dequantize(call: Call) -> Array:
    """DEQUANTIZE: the real numbers that integers stand for, float32; with one step per slice where the grid has."""
    value = call.inputs[0]
    if value is None or value.grid is None:
        return call.array(0).astype(np.float32)
    shape = [-1 if dim == value.grid.axis else 1 for dim in range(call.array(0).ndim)]
    zero = np.asarray(value.grid.zero_point, np.int64).reshape(shape)
    real = (call.array(0).astype(np.int64) - zero) * steps(value).reshape(shape)
    return np.asarray(real, np.float32)


KERNELS: dict[str, Kernel] = {
    "ADD": add,
    "SUB": subtract,
    "MUL": product,
    "RELU": relu,
    "RELU6": relu6,
    "RELU_N1_TO_1": relu_n1_to_1,
    "MAXIMUM": maximum,
    "MINIMUM": minimum,
    "LEAKY_RELU": leaky_relu,
    "QUANTIZE": quantize,
    "DEQUANTIZE": dequantize,
}
