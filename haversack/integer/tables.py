"""Tables: LOGISTIC, TANH, HARD_SWISH and SOFTMAX of every 8-bit integer, as tflite-micro computes them.

LiteRT reads int8 LOGISTIC, TANH and SOFTMAX from tables of rounded floating point; tflite-micro computes them in 32-bit
fixed point (gemmlowp). They differ by one step now and then; these tables hold tflite-micro's results.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from haversack.integer.arithmetic import (
    Array,
    Multiplier,
    divide_by_power_of_two,
    doubling_high_multiply,
    multiply,
    multiply_by_power_of_two,
    quantize_multiplier,
)
from haversack.integer.curves import exp_of_negative, logistic, tanh

_CURVE_BITS = 4
_SOFTMAX_BITS = 5
_INTEGERS = np.arange(-128, 128, dtype=np.int64)
Affine = tuple[float, int]
"""A step and a zero point."""


def logistic_table(before: Affine, _: Affine) -> Array:
    """LOGISTIC in steps of 1/256 from -128 on."""
    return _curve(before, lambda x: divide_by_power_of_two(logistic(x, _CURVE_BITS), 23) - 128)


def tanh_table(before: Affine, _: Affine) -> Array:
    """TANH in steps of 1/128."""
    return _curve(before, lambda x: divide_by_power_of_two(tanh(x, _CURVE_BITS), 24))


def _curve(before: Affine, function: Callable[[Array], Array]) -> Array:
    """`function` of numbers with 4 integer bits, and an end of the integers for what lies outside (-15, 15)."""
    step, zero = before
    x = _INTEGERS - zero
    by = quantize_multiplier(step * (1 << 31 - _CURVE_BITS))
    outside = np.sign(x) * (np.abs(x) >= _radius(_CURVE_BITS, int(by.shift)))
    inside = function(multiply(np.where(outside, 0, x), by))
    ends = np.where(outside > 0, 127, -128)
    return np.asarray(np.clip(np.where(outside == 0, inside, ends), -128, 127), np.int8)


def _radius(integer_bits: int, shift: int) -> int:
    """The largest integer that stays below 2^integer_bits after a shift to the left."""
    return math.floor(((1 << integer_bits) - 1) * float(1 << 31 - integer_bits) / 2.0**shift)


def softmax_table(step: float) -> Array:
    """Exp of -255..0 such steps in units of 2^-31; 0 where TFLite leaves a number out."""
    by = quantize_multiplier(min(step * (1 << 31 - _SOFTMAX_BITS), 2.0**31 - 1))
    difference = np.arange(-255, 1, dtype=np.int64)
    near = difference >= -_radius(_SOFTMAX_BITS, int(by.shift))
    scaled = doubling_high_multiply(np.where(near, difference, 0) << by.shift, by.mantissa)
    return np.asarray(np.where(near, exp_of_negative(scaled, _SOFTMAX_BITS), 0), np.int32)


def hard_swish_table(before: Affine, behind: Affine) -> Array:
    """HARD_SWISH, x min(max(x + 3, 0), 6) / 6, in 16-bit fixed point."""
    fine = (_INTEGERS - before[1]) << 7
    step = np.float32(1 / 128) * np.float32(before[0])
    output, relu = (_narrow(float(step / np.float32(unit))) for unit in (behind[0], 3 / 32768))
    share, exponent = fine, int(relu.shift)
    if exponent > 0:
        share = multiply_by_power_of_two(share, exponent - 1, bits=16)
    share = doubling_high_multiply(share, relu.mantissa, bits=16)
    share = multiply_by_power_of_two(share, min(exponent, 1), bits=16)
    share = (share + (1 << 15)) >> 1
    product = share * doubling_high_multiply(fine, output.mantissa, bits=16)
    # This product is cut towards zero, which cancels the bias of the rounded ones before.
    result = np.sign(product) * (np.abs(product) >> 15)
    return np.asarray(np.clip(divide_by_power_of_two(result, -int(output.shift)) + behind[1], -128, 127), np.int8)


def _narrow(real: float) -> Multiplier:
    """A factor whose mantissa has 16 bits."""
    by = quantize_multiplier(real)
    return Multiplier(np.minimum((by.mantissa + (1 << 15)) >> 16, 32767), by.shift)


def curve_scale(step: float, exact_shifts: tuple[int, ...]) -> tuple[int, int]:
    """(factor, shift) that turn 16-bit integers into units of 1 / (3 * 4096), which the table is read by.

    Where the step is a power of two that TFLite takes as it is, nothing is shifted to the right.
    """
    exponent = math.log2(step)
    shift = 12 + round(exponent)
    if abs(exponent - round(exponent)) * math.log(2) < 1e-3 and shift in exact_shifts:
        return 3 << shift, 0
    factor, shift = step * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    return int(factor), shift
