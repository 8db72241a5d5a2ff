"""Fixed-point multiplication against plain Python integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.integer.arithmetic import (
    Multiplier,
    divide_by_power_of_two,
    doubling_high_multiply,
    multiply,
    multiply_by_power_of_two,
    multiply_wide,
    quantize_multiplier,
    round_half_away,
)
from haversack.integer.curves import (
    exp_of_negative,
    interpolate,
    interpolation_table,
    logistic,
    one_over_one_plus,
    reciprocal,
    sigmoid_table,
    tanh,
)

INT32 = st.integers(-(2**31), 2**31 - 1)


def half_away(real: Fraction) -> int:
    return math.floor(abs(real) + Fraction(1, 2)) * (1 if real >= 0 else -1)


def high_multiply(a: int, b: int) -> int:
    """gemmlowp's definition: a nudge towards the nearest, then C's division, which cuts towards zero."""
    if a == b == -(2**31):
        return 2**31 - 1
    product = a * b
    nudged = product + (2**30 if product >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)


@settings(max_examples=150)
@given(INT32, INT32)
def test_the_high_product_is_gemmlowps(a: int, b: int) -> None:
    assert int(doubling_high_multiply(np.int64(a), b)) == high_multiply(a, b)


@settings(max_examples=150)
@given(INT32, st.integers(0, 31))
def test_a_division_by_a_power_of_two_rounds_half_away_from_zero(x: int, exponent: int) -> None:
    assert int(divide_by_power_of_two(np.int64(x), exponent)) == half_away(Fraction(x, 2**exponent))


@settings(max_examples=100)
@given(st.floats(2.0**-31, 2.0**30))
def test_a_mantissa_has_31_bits_and_is_the_nearest(real: float) -> None:
    by = quantize_multiplier(real)
    mantissa, shift = int(by.mantissa), int(by.shift)
    assert 2**30 <= mantissa < 2**31
    assert abs(Fraction(mantissa) * Fraction(2) ** (shift - 31) - Fraction(real)) <= Fraction(2) ** (shift - 31)


def test_a_factor_just_below_a_power_of_two_moves_up_to_it() -> None:
    by = quantize_multiplier(np.nextafter(1.0, 0.0))
    assert (int(by.mantissa), int(by.shift)) == (2**30, 1)


@pytest.mark.parametrize("real", [0.0, 2.0**-40])
def test_a_factor_too_small_for_the_shift_becomes_zero(real: float) -> None:
    assert int(quantize_multiplier(real).mantissa) == 0


def test_a_negative_factor_keeps_its_sign() -> None:
    by = quantize_multiplier(-0.75)
    assert (int(by.mantissa), int(by.shift)) == (-3 * 2**29, 0)


@settings(max_examples=150)
@given(st.integers(-(2**22), 2**22), st.floats(1e-6, 100))
def test_a_32_bit_product_is_rounded_twice(x: int, real: float) -> None:
    by = quantize_multiplier(real)
    mantissa, shift = int(by.mantissa), int(by.shift)
    once = high_multiply(x << max(shift, 0), mantissa)
    assert int(multiply(np.int64(x), by)) == half_away(Fraction(once, 2 ** max(-shift, 0)))


@settings(max_examples=150)
@given(st.integers(-(2**40), 2**40), st.floats(1e-6, 0.999))
def test_a_64_bit_product_is_rounded_once_with_a_16_bit_mantissa(x: int, real: float) -> None:
    by = quantize_multiplier(real)
    short = min((int(by.mantissa) + 2**15) >> 16, 2**15 - 1)
    exact = Fraction(x * short) / Fraction(2) ** (15 - int(by.shift))
    assert int(multiply_wide(np.int64(x), by)) == math.floor(exact + Fraction(1, 2))


def test_each_channel_has_its_own_factor() -> None:
    by = quantize_multiplier(np.array([0.5, 2.0, 0.25]))
    assert multiply(np.full((2, 3), 6, np.int64), by).tolist() == [[3, 12, 2]] * 2


def test_a_shift_to_the_left_saturates() -> None:
    assert int(multiply_by_power_of_two(np.int64(-(2**30)), 2)) == -(2**31)


def test_rounding_half_away_is_not_rounding_half_to_even() -> None:
    assert round_half_away(np.array([0.5, 1.5, -2.5, 0.49999997], np.float32)).tolist() == [1, 2, -3, 0]


def test_a_shift_past_32_bits_wraps_around() -> None:
    assert int(multiply(np.int64(2**30), Multiplier(np.int64(2**30), np.int64(2)))) == 0


def test_exp_of_negative_numbers_is_exact_to_22_bits() -> None:
    x = -np.arange(0, 2**31, 997_331, dtype=np.int64)
    assert np.abs(exp_of_negative(x, 5) / 2**31 - np.exp(x / 2.0**26)).max() < 2.0**-22


@pytest.mark.parametrize(("fixed", "real"), [(logistic, lambda x: 1 / (1 + np.exp(-x))), (tanh, np.tanh)])
def test_logistic_and_tanh_are_exact_to_22_bits(fixed, real) -> None:
    x = np.arange(-(2**31) + 1, 2**31, 1_994_663, dtype=np.int64)
    assert np.abs(fixed(x, 4) / 2**31 - real(x / 2.0**27)).max() < 2.0**-22


def test_a_reciprocal_is_a_fraction_and_a_shift() -> None:
    x = np.arange(1, 4000, 7, dtype=np.int64) << 19
    fraction, shift = reciprocal(x, 12)
    assert np.allclose(fraction / 2.0**31 / 2.0**shift, 2.0**19 / x, rtol=1e-7)


def test_one_over_one_plus_ends_at_one_half() -> None:
    assert int(one_over_one_plus(np.int64(2**31 - 1))) == pytest.approx(2**30, abs=4)


def test_the_sigmoid_table_rises_from_one_half_to_the_largest_16_bit_number() -> None:
    table = sigmoid_table()
    assert (table[0], table[1], table[255]) == (32768, 33451, 65535)
    assert (np.diff(table) >= 0).all()


def test_an_interpolated_table_is_off_by_at_most_one_step_of_16_bits() -> None:
    table = interpolation_table(lambda x: np.float32(1) / (np.float32(1) + x), 0.0, 1.0)
    x = np.arange(-32768, 32767, dtype=np.int64)
    wanted = 32768 / (1 + (x + 32768) / 65536)
    assert np.abs(interpolate(x, table) - wanted).max() <= 1.5
