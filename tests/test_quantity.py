"""Quantities: what is read, what is refused, and that what is shown can be read back."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.errors import QuantityError
from haversack.quantity import (
    parse_bytes,
    parse_latency,
    parse_mj,
    parse_ms,
    parse_share,
    show_bytes,
    show_count,
    show_ms,
)

BAD = (
    "",
    " ",
    "5",
    "ms",
    "-3ms",
    "5 parsecs",
    "nan",
    "nanms",
    "infms",
    "1e400kB",
    "0kB",
    "5..ms",
    "1,5ms",
    "٣ms",
    "5 m s",
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("90kB", 90_000),
        ("256KiB", 262_144),
        ("2MB", 2_000_000),
        ("1GiB", 2**30),
        ("1.5 kb", 1500),
        (" 7 B ", 7),
        (".5MiB", 2**19),
        ("1e3kB", 1_000_000),
    ],
)
def test_a_size_is_read_in_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("5ms", 5), ("800us", 0.8), ("800µs", 0.8), ("800\u03bcs", 0.8), ("0.2s", 200), ("2e1 MS", 20)],
)
def test_a_time_is_read_in_milliseconds(text, milliseconds):
    assert parse_ms(text) == pytest.approx(milliseconds)


@pytest.mark.parametrize(("text", "millijoules"), [("3mJ", 3), ("450uJ", 0.45), ("0.1J", 100)])
def test_an_energy_is_read_in_millijoules(text, millijoules):
    assert parse_mj(text) == pytest.approx(millijoules)


@pytest.mark.parametrize(
    ("text", "share"), [("1%", 0.01), ("0.01", 0.01), ("92.5%", 0.925), ("100%", 1), ("0%", 0), ("0", 0)]
)
def test_a_share_is_read_with_or_without_percent_and_may_be_nothing(text, share):
    assert parse_share(text) == pytest.approx(share)


def test_a_latency_is_a_time_or_a_ratio():
    assert parse_latency("5ms") == (5, None)
    assert parse_latency("0.45x") == (None, 0.45)
    assert parse_latency(" 1.5 X ") == (None, 1.5)


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("parse", [parse_bytes, parse_ms, parse_mj, parse_latency])
def test_what_is_no_quantity_is_refused_with_an_example(parse, text):
    with pytest.raises(QuantityError, match="How to mend it") as refused:
        parse(text)
    assert repr(text)[1:-1] in str(refused.value)


@pytest.mark.parametrize("text", ["x", "0x", "-1x", "1e400x", "1xx", "5 kB", "5%"])
def test_what_is_no_latency_is_refused(text):
    with pytest.raises(QuantityError):
        parse_latency(text)


@pytest.mark.parametrize("text", ["", "%", "-1%", "101%", "1.01", "nan", "1e400", "5ms"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(QuantityError):
        parse_share(text)


@pytest.mark.parametrize("text", ["8Mb", "8 Mb", "1Gb", "2Mib"])
def test_megabits_are_not_taken_for_megabytes(text):
    with pytest.raises(QuantityError, match="bits"):
        parse_bytes(text)


def test_a_size_below_one_byte_is_refused_and_does_not_become_zero():
    with pytest.raises(QuantityError, match="less than a byte"):
        parse_bytes("0.4B")


def test_the_error_tells_too_large_from_zero():
    with pytest.raises(QuantityError, match="too large"):
        parse_bytes("1e400kB")
    with pytest.raises(QuantityError, match="more than zero"):
        parse_bytes("0kB")


@settings(max_examples=200)
@given(st.integers(1, 10**13))
def test_a_shown_size_reads_back_to_within_its_one_decimal(count):
    assert parse_bytes(show_bytes(count)) == pytest.approx(count, rel=0.05)


@settings(max_examples=200)
@given(st.floats(1e-6, 1e9))
def test_a_shown_time_reads_back_to_three_digits(milliseconds):
    assert parse_ms(show_ms(milliseconds)) == pytest.approx(milliseconds, rel=0.0051)


@settings(max_examples=200)
@given(st.integers(1, 10**12 - 10**9))
def test_no_shown_number_has_more_than_three_digits_before_its_point(count):
    for shown in (show_bytes(count), show_count(count)):
        number = shown.split()[0]
        assert len(number.partition(".")[0]) <= 3, shown
        assert "e" not in number


@settings(max_examples=100)
@given(st.integers(1, 10**9), st.sampled_from(["B", "kB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_whole_number_of_any_unit_is_read_exactly(count, unit):
    factor = {"B": 1, "k": 1000, "M": 1000**2, "G": 1000**3, "K": 1024}[unit[0]]
    factor = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}.get(unit, factor)
    assert parse_bytes(f"{count}{unit}") == count * factor


@settings(max_examples=200)
@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_and_never_fails_otherwise(text):
    for parse in (parse_bytes, parse_ms, parse_mj, parse_share):
        try:
            value = parse(text)
        except QuantityError:
            continue
        assert math.isfinite(value)
        assert value >= 0


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (5e12, "5000.0 GB"),
        (-1500, "-1.5 kB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_fits(count, shown):
    assert show_bytes(count) == shown


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (7, "7"), (999_999, "1.00 M"), (40_800_000, "40.80 M"), (2.5e9, "2.50 G")]
)
def test_a_count_is_shown_with_a_metric_suffix(count, shown):
    assert show_count(count) == shown


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0.0123, "0.0123 ms"), (4.5678, "4.57 ms"), (999.7, "1 s"), (1000, "1 s"), (1_234_567, "1235 s")],
)
def test_a_time_is_shown_without_an_exponent(milliseconds, shown):
    assert show_ms(milliseconds) == shown
