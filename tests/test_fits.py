"""Ranks correlate as SciPy says, and a line is found that is there."""

import fits
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=20)


@given(PAIRS.filter(lambda pairs: all(len(set(values)) > 1 for values in zip(*pairs, strict=True))))
def test_the_correlation_of_ranks_is_scipy_s(pairs):
    one, other = zip(*pairs, strict=True)
    assert fits.spearman(one, other) == pytest.approx(stats.spearmanr(one, other).statistic)


@given(st.floats(-0.9, 1), st.floats(0.1, 3), st.lists(st.integers(10, 30), min_size=2, max_size=9, unique=True))
def test_a_line_through_points_is_found(a, b, seen):
    assert fits.line(seen, [a + b * each for each in seen]) == pytest.approx((a, b), abs=1e-6)


def test_a_point_that_is_off_counts_by_its_share():
    a, b = fits.line([1, 2, 100], [1, 2, 110])
    assert abs(a + 100 * b - 110) / 110 < 0.1
    assert abs(a + b - 1) < 0.1
