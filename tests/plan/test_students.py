"""Students are scaled and ranked with fakes: what a member needs and how well it learns is a formula."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from haversack import zoo
from haversack.limits import Miss
from haversack.plan.students import Counts, FamilyMember, Student, Yardstick, halved, scaled, shapes


def counts(member: FamilyMember) -> Counts:
    """Both grow with the square of the width and with the depth; strides save work only."""
    size = member.width**2 * member.depth
    return Counts(int(100_000 * size), int(40_000_000 * size / (member.downsampling * member.shrink) ** 2))


class Scales:
    """Holds members against limits and notes which it weighed; bytes are one a parameter and some a layer."""

    def __init__(self, limit: float, most: Counts | None = None, overhead: float = 0, file: float = 1):
        self.weighed: list[FamilyMember] = []
        self.measured: list[FamilyMember] = []
        self._limit, self._overhead, self._file = limit, overhead, file
        self.yardstick = Yardstick(counts, most or Counts(100_000, 40_000_000), self.misses, self.misses_as_file)

    def misses(self, member: FamilyMember) -> tuple[Miss, ...]:
        self.weighed.append(member)
        found = counts(member).parameters + self._overhead * member.depth
        return (Miss("flash", self._limit, found),) if found > self._limit else ()

    def misses_as_file(self, member: FamilyMember) -> tuple[Miss, ...]:
        """A file is `file` times as large as was estimated."""
        self.measured.append(member)
        found = self._file * (counts(member).parameters + self._overhead * member.depth)
        return (Miss("flash", self._limit, found),) if found > self._limit else ()


@pytest.mark.parametrize("limit", [1_000, 5_000, 20_000, 70_000])
def test_the_widest_member_that_fits_is_found_with_few_weighings(limit):
    scales = Scales(limit)
    found = scaled("mobilenet_v1", 32, scales.yardstick)
    assert found.fits
    assert not scales.misses(found.member)
    assert scales.misses(replace(found.member, width=found.member.width + 1 / 16))
    assert len(scales.weighed) <= 2 + 1 + 2 * 6


@given(st.integers(400, 120_000), st.integers(0, 5_000))
def test_of_a_familys_depths_and_widths_none_that_fits_has_more_capacity(limit, overhead):
    scales = Scales(limit, overhead=overhead)
    found = scaled("mobilenet_v1", 28, scales.yardstick)
    sizes = [replace(found.member, width=steps / 16, depth=depth) for depth in (0.5, 1.0) for steps in range(1, 33)]
    within = [each for each in sizes if counts(each).within(scales.yardstick.most) and not scales.misses(each)]
    assert found.fits is bool(within)
    assert not found.fits or found.counts.capacity == max(counts(each).capacity for each in within)


@pytest.mark.parametrize("file", [1.0, 1.1, 1.5, 4.0])
def test_the_file_has_the_last_word_and_few_are_written(file):
    scales = Scales(20_000, overhead=2_000, file=file)
    found = scaled("mobilenet_v1", 32, scales.yardstick)
    assert found.fits
    assert len(scales.measured) <= 4
    assert not scales.misses_as_file(found.member)
    wider = replace(found.member, width=found.member.width + 1 / 16)
    assert scales.misses_as_file(wider)


def test_where_no_file_fits_none_does_although_it_was_estimated_to():
    scales = Scales(20_000, file=1e6)
    assert not scaled("mobilenet_v1", 32, scales.yardstick).fits


def test_where_nothing_fits_the_smallest_member_is_told_and_hardly_anything_is_weighed():
    scales = Scales(100)
    found = scaled("mobilenet_v1", 32, scales.yardstick)
    assert not found.fits
    assert found.counts == min((counts(each) for each in shapes("mobilenet_v1", 32)), key=lambda each: each.capacity)
    assert len(scales.weighed) == 1


def test_counts_out_of_bounds_are_not_weighed_at_all():
    scales = Scales(100_000, most=Counts(10, 10))
    assert not scaled("mobilenet_v1", 32, scales.yardstick).fits
    assert not scales.weighed


def test_a_family_without_a_member_for_the_inputs_gives_none():
    assert scaled("mobilenet_v1", 32, Yardstick(lambda _: None, Counts(1, 1), lambda _: (), lambda _: ())) is None


def test_small_inputs_are_downsampled_less_and_large_ones_may_be_shrunk():
    assert {each.downsampling for each in shapes("ds_cnn", 8)} == {1, 2}
    assert {each.shrink for each in shapes("ds_cnn", 32)} == {1}
    assert {(each.shrink, each.downsampling) for each in shapes("ds_cnn", 224)} == {(1, 32), (1, 16), (2, 16), (2, 8)}


@pytest.mark.parametrize(
    ("extent", "wanted"), [(2, 1), (4, 1), (8, 2), (28, 4), (32, 8), (96, 16), (224, 32), (999, 32)]
)
def test_four_to_seven_pixels_are_left_for_the_last_map(extent, wanted):
    assert zoo.downsampling(extent) == wanted


STUDENTS = [Student(FamilyMember(f"family{place}"), Counts(1, 1)) for place in range(8)]


def test_the_better_half_learns_anew_for_twice_as_long_until_one_is_left():
    asked = []

    def judge(member, epochs):
        asked.append((member.family, epochs))
        return abs(int(member.family[-1]) - 5) + 1 / epochs

    ranked = halved(STUDENTS, judge, 1, 60)
    assert [len([1 for _, epochs in asked if epochs == round_]) for round_ in (1, 2, 4)] == [8, 4, 2]
    assert ranked[0].member.family == "family5"
    assert [each.epochs for each in ranked] == [4, 4, 2, 2, 1, 1, 1, 1]
    assert sorted(each.member.family for each in ranked) == [each.member.family for each in STUDENTS]


def test_one_that_cannot_learn_comes_last_and_none_learns_longer_than_the_winner_will():
    def judge(member, epochs):
        assert epochs <= 3
        return float("inf") if member.family == "family0" else float(member.family[-1])

    ranked = halved(STUDENTS[:3], judge, 2, 3)
    assert [each.member.family for each in ranked] == ["family1", "family2", "family0"]


def test_a_single_student_is_not_judged():
    assert halved(STUDENTS[:1], None, 1, 60) == tuple(STUDENTS[:1])
