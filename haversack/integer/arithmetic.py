"""Fixed-point multiplication as TFLite's integer kernels do it: a real factor becomes a 32-bit mantissa and a shift.

The scheme is that of Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.2, with the rounding of gemmlowp, which is the rounding of Arm's SQRDMULH
and SRSHL instructions: once to the nearest (ties up) after the multiplication, once more (ties away from zero) in the
shift. Accumulators of 64 bits (16-bit activations) are multiplied by the upper 16 bits of the mantissa and rounded
once (ties up). All functions take and return int64 arrays that hold numbers of the width which they name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

INT32_MAX = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Multiplier:
    """Real factors as mantissa x 2^(shift - 31), one or one per channel."""

    mantissa: Array
    shift: Array


def quantize_multiplier(real: float | Array) -> Multiplier:
    """The fixed-point factors nearest to `real`, with 31 significant bits; factors below 2^-32 become zero."""
    fraction, shift = np.frexp(np.asarray(real, np.float64))
    mantissa = round_half_away(np.ldexp(fraction, 31)).astype(np.int64)
    full = np.abs(mantissa) == 1 << 31
    mantissa, shift = np.where(full & (mantissa > 0), mantissa // 2, mantissa), shift + (full & (mantissa > 0))
    tiny = shift < -31
    return Multiplier(np.where(tiny, 0, mantissa), np.where(tiny, 0, shift).astype(np.int64))


def round_half_away(real: Array) -> Array:
    """The nearest whole numbers, ties away from zero, in the same type: C's `round`."""
    whole = np.trunc(real)
    return np.asarray(whole + np.where(np.abs(real - whole) >= 0.5, np.sign(real), 0)).astype(real.dtype)


def doubling_high_multiply(a: Array, b: Array | int, *, bits: int = 32) -> Array:
    """The upper half of 2ab, rounded to the nearest (ties up) and saturated: gemmlowp's product of fixed points."""
    product = (a * np.asarray(b, np.int64) + (1 << bits - 2)) >> (bits - 1)
    return np.asarray(np.minimum(product, (1 << bits - 1) - 1))


def divide_by_power_of_two(x: Array, exponent: Array | int) -> Array:
    """Quotients x / 2^exponent, rounded to the nearest, ties away from zero."""
    half = (np.int64(1) << np.asarray(exponent, np.int64)) >> 1
    return np.asarray((x + half - ((x < 0) & (half > 0))) >> exponent)


def multiply_by_power_of_two(x: Array, exponent: int, *, bits: int = 32) -> Array:
    """Products x * 2^exponent, saturated on the left and rounded on the right."""
    if exponent < 0:
        return divide_by_power_of_two(x, -exponent)
    top = 1 << bits - 1
    return np.asarray(np.clip(x << exponent, -top, top - 1))


def multiply(x: Array, by: Multiplier) -> Array:
    """32-bit integers times fixed-point factors, rounded twice: TFLite's MultiplyByQuantizedMultiplier."""
    shifted = x << np.maximum(by.shift, 0)
    # C's 32-bit product wraps around; keep it that way.
    shifted = shifted.astype(np.int32).astype(np.int64) if np.any(by.shift > 0) else shifted
    return divide_by_power_of_two(doubling_high_multiply(shifted, by.mantissa), np.maximum(-by.shift, 0))


def multiply_wide(x: Array, by: Multiplier) -> Array:
    """48-bit integers times fixed-point factors cut to 16 bits, rounded once: for 16-bit activations."""
    factor = np.where(by.mantissa < 0x7FFF0000, (by.mantissa + (1 << 15)) >> 16, 0x7FFF)
    shift = 15 - by.shift
    return np.asarray((x * factor + (np.int64(1) << (shift - 1))) >> shift)
