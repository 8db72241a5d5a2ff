"""Hypervolumes against counting cells, and dominance against its definition."""

from itertools import pairwise, product

import pareto
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

REFERENCE = (4.0, 4.0, 4.0)
POINTS = st.lists(st.tuples(*[st.integers(0, 5).map(float)] * 3), max_size=12)


def counted(points):
    """The unit cells of the box from 0 to the reference that some point dominates."""
    cells = product(*(range(int(end)) for end in REFERENCE))
    return sum(any(all(a <= b for a, b in zip(p, cell, strict=True)) for p in points) for cell in cells)


@settings(deadline=None)
@given(POINTS)
def test_a_hypervolume_is_what_counting_cells_gives(points):
    assert pareto.hypervolume(points, REFERENCE) == counted(points)


@settings(deadline=None)
@given(POINTS)
def test_the_volumes_of_a_growing_set_are_those_of_its_beginnings(points):
    volumes = pareto.hypervolumes(points, REFERENCE)
    assert volumes == [counted(points[: count + 1]) for count in range(len(points))]
    assert all(a <= b for a, b in pairwise(volumes))
    if volumes and volumes[-1]:
        count = pareto.needed(points, REFERENCE, volumes[-1])
        assert volumes[count - 1] == volumes[-1]
        assert count == 1 or volumes[count - 2] < volumes[-1]
    assert pareto.needed(points, REFERENCE, counted(points) + 1) is None


@settings(deadline=None)
@given(POINTS)
def test_the_front_is_what_nothing_dominates(points):
    distinct = set(points)
    assert pareto.front(points) == sorted(
        one for one in distinct if not any(pareto.dominates(other, one) for other in distinct)
    )


@pytest.mark.parametrize(
    ("one", "other", "does"), [((1, 1), (1, 1), False), ((1, 1), (1, 2), True), ((0, 3), (1, 2), False)]
)
def test_a_point_dominates_where_it_is_nowhere_larger_and_somewhere_smaller(one, other, does):
    assert pareto.dominates(one, other) == does
