"""LOGISTIC, TANH, SOFTMAX and HARD_SWISH as tflite-micro computes them.

LiteRT reads int8 LOGISTIC, TANH and SOFTMAX from tables of rounded floating point; tflite-micro computes them in 32-bit
fixed point (gemmlowp). They differ by one step now and then; this is tflite-micro's arithmetic.
"""

from __future__ import annotations

import math

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import (
    Multiplier,
    divide_by_power_of_two,
    doubling_high_multiply,
    multiply,
    multiply_by_power_of_two,
    quantize_multiplier,
)
from haversack.integer.curves import exp_of_negative, interpolate, interpolation_table, reciprocal, sigmoid_table
from haversack.integer.curves import logistic as logistic_fixed
from haversack.integer.curves import tanh as tanh_fixed
from haversack.integer.reference.call import Call, Kernel
from haversack.integer.reference.elementwise import tabulate

_CURVE_BITS = 4
_SOFTMAX_BITS = 5
_SUM_BITS = 12


def logistic(call: Call) -> Array:
    """LOGISTIC: [0, 1) in steps of 1/256 (int8) or 1/32768 (int16)."""
    if not call.integer:
        return (1 / (1 + np.exp(-call.array(0)))).astype(np.float32)
    if call.array(0).dtype == np.int16:
        return tabulate(call, lambda x: _logistic16(_scaled16(call, x, exact_shifts=(0,))))
    return tabulate(call, lambda x: _logistic8(call, x))


def tanh(call: Call) -> Array:
    """TANH: [-1, 1) in steps of 1/128 (int8) or 1/32768 (int16)."""
    if not call.integer:
        return np.tanh(call.array(0)).astype(np.float32)
    if call.array(0).dtype == np.int16:
        return tabulate(call, lambda x: _tanh16(_scaled16(call, x, exact_shifts=(0, 1))))
    return tabulate(call, lambda x: _tanh8(call, x))


def _logistic8(call: Call, x: Array) -> Array:
    x, outside = _scaled8(call, x)
    result = divide_by_power_of_two(logistic_fixed(x, _CURVE_BITS), 23) - 128
    return _ended8(result, outside)


def _tanh8(call: Call, x: Array) -> Array:
    x, outside = _scaled8(call, x)
    result = divide_by_power_of_two(tanh_fixed(x, _CURVE_BITS), 24)
    return _ended8(result, outside)


def _scaled8(call: Call, x: Array) -> tuple[Array, Array]:
    """The integers `x` with 4 integer bits, and -1, 0 or 1 for those that lie below, in or above (-15, 15)."""
    value = call.inputs[0]
    x = x - (0 if value is None or value.grid is None else value.grid.zero_point[0])
    by = quantize_multiplier(call.scale(0) * (1 << 31 - _CURVE_BITS))
    radius = _radius(_CURVE_BITS, int(by.shift))
    outside = np.sign(x) * (np.abs(x) >= radius)
    return multiply(np.where(outside, 0, x), by), outside


def _ended8(result: Array, outside: Array) -> Array:
    """`result`, or the end of the output's integers for what lies outside."""
    ends = np.where(outside > 0, 127, -128)
    return np.asarray(np.clip(np.where(outside == 0, result, ends), -128, 127), np.int8)


def _radius(integer_bits: int, shift: int) -> int:
    """The largest integer that stays below 2^integer_bits after a shift to the left."""
    return math.floor(((1 << integer_bits) - 1) * float(1 << 31 - integer_bits) / 2.0**shift)


def _scaled16(call: Call, x: Array, exact_shifts: tuple[int, ...]) -> Array:
    """The integers `x` in units of 1 / (3 x 4096): the 16-bit table reads them by 3/4 of an eighth."""
    exponent = math.log2(call.scale(0))
    shift = 12 + round(exponent)
    if abs(exponent - round(exponent)) * math.log(2) < 1e-3 and shift in exact_shifts:
        return x * (3 << shift)
    factor, shift = call.scale(0) * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    return (x * int(factor) + (1 << shift >> 1)) >> shift


def _logistic16(x: Array) -> Array:
    place, rest = np.abs(x) >> 9, np.abs(x) & 511
    result = np.where(place >= 255, 0x7FFF << 10, _between(place, rest, 9))
    result = np.where(x >= 0, result + (1 << 9), (1 << 25) - result + (1 << 9) - 1)
    return np.asarray(result >> 10, np.int16)


def _tanh16(x: Array) -> Array:
    place, rest = np.abs(x) >> 8, np.abs(x) & 255
    result = np.where(place >= 255, 0xFFFF << 8, _between(place, rest, 8))
    result = np.where(x >= 0, result - (1 << 23) + (1 << 7), -result + (1 << 23) + (1 << 7) - 1)
    return np.asarray(result >> 8, np.int16)


def _between(place: Array, rest: Array, bits: int) -> Array:
    table, place = sigmoid_table(), np.minimum(place, 254)
    return np.asarray((table[place] << bits) + rest * (table[place + 1] - table[place]))


def softmax(call: Call) -> Array:
    """SOFTMAX over the last axis: [0, 1) in steps of 1/256 (int8) or 1/32768 (int16)."""
    x, beta = call.array(0), float(np.float32(call.option("beta")))
    if not call.integer:
        power = np.exp((x - x.max(axis=-1, keepdims=True)) * np.float32(beta))
        return np.asarray(power / power.sum(axis=-1, keepdims=True), np.float32)
    below = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    return (_softmax16 if x.dtype == np.int16 else _softmax8)(below, call.scale(0), beta)


def _softmax8(below: Array, scale: float, beta: float) -> Array:
    by = quantize_multiplier(min(beta * scale * (1 << 31 - _SOFTMAX_BITS), 2.0**31 - 1))
    difference = np.arange(-255, 1, dtype=np.int64)
    near = difference >= -_radius(_SOFTMAX_BITS, int(by.shift))
    scaled = doubling_high_multiply(np.where(near, difference, 0) << by.shift, by.mantissa)
    power = exp_of_negative(scaled, _SOFTMAX_BITS)[below + 255]
    near = near[below + 255]
    total = np.where(near, divide_by_power_of_two(power, _SUM_BITS), 0).sum(axis=-1, keepdims=True)
    factor, shift = reciprocal(total, _SUM_BITS)
    result = divide_by_power_of_two(doubling_high_multiply(power, factor), shift + 31 - 8) - 128
    return np.asarray(np.clip(np.where(near, result, -128), -128, 127), np.int8)


def _softmax16(below: Array, scale: float, beta: float) -> Array:
    by = quantize_multiplier(scale * beta / (10.0 / 65535.0))
    exp_table = interpolation_table(lambda x: np.exp(x.astype(np.float64)).astype(np.float32), -10.0, 0.0)
    inverse_table = interpolation_table(lambda x: np.float32(1) / (np.float32(1) + x), 0.0, 1.0)
    power = interpolate(np.clip(multiply(below, by) + 32767, -32768, 32767), exp_table)
    total = power.sum(axis=-1, keepdims=True)
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    place = (((total << (zeros - 1)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16)
    inverse = interpolate(np.clip(place, -32768, 32767), inverse_table)
    shift = 31 - zeros
    result = (power * inverse + (np.int64(1) << (shift - 1))) >> shift
    return np.asarray(np.clip(result, 0, 32767), np.int16)


def hard_swish(call: Call) -> Array:
    """HARD_SWISH: x min(max(x + 3, 0), 6) / 6, in 16-bit fixed point."""
    if not call.integer:
        x = call.array(0)
        return (x * np.clip(x + np.float32(3), np.float32(0), np.float32(6)) / np.float32(6)).astype(np.float32)
    return tabulate(call, lambda x: _hard_swish8(call, x))


def _hard_swish8(call: Call, x: Array) -> Array:
    value = call.inputs[0]
    fine = (x - (0 if value is None or value.grid is None else value.grid.zero_point[0])) << 7
    step = np.float32(1 / 128) * np.float32(call.scale(0))
    output = _narrow(float(step / np.float32(call.output_scale)))
    relu = _narrow(float(step / np.float32(3 / 32768)))
    share, exponent = fine, int(relu.shift)
    if exponent > 0:
        share = multiply_by_power_of_two(share, exponent - 1, bits=16)
    share = doubling_high_multiply(share, relu.mantissa, bits=16)
    share = multiply_by_power_of_two(share, min(exponent, 1), bits=16)
    share = (share + (1 << 15)) >> 1
    whole = doubling_high_multiply(fine, output.mantissa, bits=16)
    product = share * whole
    # This product is cut towards zero, which cancels the bias of the rounded ones before.
    result = np.sign(product) * (np.abs(product) >> 15)
    return call.finish(divide_by_power_of_two(result, -int(output.shift)))


def _narrow(real: float) -> Multiplier:
    """A factor whose mantissa has 16 bits."""
    by = quantize_multiplier(real)
    return Multiplier(np.minimum((by.mantissa + (1 << 15)) >> 16, 32767), by.shift)


KERNELS: dict[str, Kernel] = {
    "LOGISTIC": logistic,
    "TANH": tanh,
    "SOFTMAX": softmax,
    "HARD_SWISH": hard_swish,
}
