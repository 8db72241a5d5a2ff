"""exp, 1/(1+x), logistic and tanh in 32-bit fixed point, and the tables of the 16-bit kernels.

A number with b integer bits is an integer in units of 2^(b-31). The methods are gemmlowp's: exp by a Taylor polynomial
around -1/8 and one constant factor for every larger power of two, 1/(1+x) by three Newton-Raphson steps from
48/17 - 32/17 d. Integers are int64 arrays that hold 32-bit numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from haversack.integer.arithmetic import (
    INT32_MAX,
    Array,
    divide_by_power_of_two,
    doubling_high_multiply,
    multiply_by_power_of_two,
    round_half_away,
)

_NEWTON_STEPS = 3
_TABLE_STEPS = 512


def exp_of_negative(x: Array, integer_bits: int) -> Array:
    """exp(x) of x <= 0 as a fraction."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    rest = (x & (quarter - 1)) - quarter
    result = _exp_of_quarter(multiply_by_power_of_two(rest, integer_bits))
    remainder = rest - x
    for exponent in range(-2, min(integer_bits, 5)):
        factor = _fraction(math.exp(-(2.0**exponent)))
        bit = (remainder & (1 << (fraction_bits + exponent))) != 0
        result = np.where(bit, doubling_high_multiply(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def _exp_of_quarter(x: Array) -> Array:
    """exp(x) of -1/4 <= x < 0, both fractions."""
    x = x + (1 << 28)
    square = doubling_high_multiply(x, x)
    cube, fourth = doubling_high_multiply(square, x), doubling_high_multiply(square, square)
    third = doubling_high_multiply(divide_by_power_of_two(fourth, 2) + cube, _fraction(1 / 3))
    constant = _fraction(math.exp(-1 / 8))
    return constant + doubling_high_multiply(x + divide_by_power_of_two(third + square, 1), constant)


def _fraction(real: float, integer_bits: int = 0) -> int:
    return round(real * (1 << (31 - integer_bits)))


def _half_reciprocal(x: Array) -> Array:
    """2 / (1+x) of a fraction 0 <= x < 1, with 2 integer bits."""
    half = (x + INT32_MAX + 1) >> 1
    result = _fraction(48 / 17, 2) + doubling_high_multiply(half, _fraction(-32 / 17, 2))
    for _ in range(_NEWTON_STEPS):
        error = (1 << 29) - doubling_high_multiply(half, result)
        result = result + multiply_by_power_of_two(doubling_high_multiply(result, error), 2)
    return result


def one_over_one_plus(x: Array) -> Array:
    """Fractions 1 / (1+x) of fractions 0 <= x < 1."""
    return multiply_by_power_of_two(_half_reciprocal(x), 1)


def logistic(x: Array, integer_bits: int) -> Array:
    """1 / (1 + exp(-x)) as a fraction."""
    positive = one_over_one_plus(exp_of_negative(-np.abs(x), integer_bits))
    return np.where(x == 0, 1 << 30, np.where(x > 0, positive, INT32_MAX - positive))


def tanh(x: Array, integer_bits: int) -> Array:
    """The hyperbolic tangent (1 - exp(-2x)) / (1 + exp(-2x)) as a fraction."""
    decay = exp_of_negative(-np.abs(x), integer_bits + 1)
    magnitude = multiply_by_power_of_two(_half_reciprocal(decay) - (1 << 29), 2)
    return np.sign(x) * magnitude


def reciprocal(x: Array, integer_bits: int) -> tuple[Array, Array]:
    """Fractions 1/x of x >= 1, and by how many bits it has to be shifted to the right."""
    leading_zeros = 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)
    mantissa = (x << leading_zeros) - (1 << 31)
    return one_over_one_plus(mantissa), integer_bits - leading_zeros


def sigmoid_table() -> Array:
    """logistic(i / 24) of i = 0..255 in units of 2^-16: the table of the 16-bit LOGISTIC and TANH.

    Each number is moved up by half of what linear interpolation to the next one misses in the middle.
    The last one is the largest: what lies behind it is saturated.
    """
    at = 65536 / (1 + np.exp(-np.arange(257) / 24))
    between = 65536 / (1 + np.exp(-(np.arange(256) + 0.5) / 24))
    table = round_half_away(at[:-1] + (between - (at[:-1] + at[1:]) / 2) / 2).astype(np.int64)
    table[-1] = 65535
    return table


def interpolation_table(function: Callable[[Array], Array], low: float, high: float) -> Array:
    """`function` at 513 places of [low, high] in units of 2^-15, each moved to halve the error between two places."""
    width = np.float32(high - low) / np.float32(_TABLE_STEPS)
    place = np.float32(low) + np.arange(_TABLE_STEPS + 1, dtype=np.float32) * width
    real = function(place) * np.float32(32768)
    at = round_half_away(real)
    between = round_half_away(function(place[:-1] + width / np.float32(2)) * np.float32(32768))
    error = round_half_away((real[1:] + at[:-1]) / np.float32(2)) - between
    bias = round_half_away(error / np.float32(2))
    return np.asarray(np.clip(np.append(at[:-1] - bias, at[-1]), -32768, 32767), np.int64)


def interpolate(x: Array, table: Array) -> Array:
    """What `table` holds for 16-bit integers, linear between two places."""
    place = 256 + (x >> 7)
    return np.asarray(table[place] + (((table[place + 1] - table[place]) * (x & 127) + 64) >> 7))
