"""Limits, estimates, the frontier, and JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.errors import UntrustedError
from haversack.limits import Budget, Miss
from haversack.measurement import Candidate, Conditions, Figure, Measurement, Parity, frontier
from haversack.recipe import Recipe
from haversack.untrusted import typed

CONDITIONS = Conditions("board", "onnx", 1, "a machine", {"torch": "2"})


def measured(**changes) -> Measurement:
    figures = {
        "flash_bytes": Figure(1000, "host"),
        "ram_bytes": Figure(2000, "host"),
        "latency_ms": Figure(5.0, "host"),
        "latency_ratio": Figure(0.5, "host"),
        "score": Figure(0.9, "host"),
        "energy_mj": Figure(3.0, "board"),
        "update_bytes": Figure(400, "host"),
        "conditions": CONDITIONS,
    }
    return Measurement(**{**figures, **changes})


LIMITS = [
    ("flash_bytes", 1000, 999, "flash"),
    ("ram_bytes", 2000, 1999, "ram"),
    ("latency_ms", 5.0, 4.9, "latency"),
    ("latency_ratio", 0.5, 0.49, "latency ratio"),
    ("energy_mj", 3.0, 2.9, "energy (mJ)"),
    ("update_bytes", 400, 399, "update"),
    ("score_at_least", 0.9, 0.91, "score"),
]


@pytest.mark.parametrize(("name", "met", "missed", "label"), LIMITS)
def test_each_limit_is_met_exactly_and_missed_by_a_little(name, met, missed, label):
    assert measured().misses(Budget(**{name: met})) == ()
    (miss,) = measured().misses(Budget(**{name: missed}))
    assert (miss.limit, miss.allowed) == (label, missed)
    assert miss.share == pytest.approx(abs(met - missed) / missed)
    assert str(miss).startswith(f"{label}: ")
    assert "misses by" in str(miss)


def test_no_limit_is_never_missed():
    assert measured().misses(Budget()) == ()


@pytest.mark.parametrize("name", ["latency_ms", "latency_ratio", "energy_mj"])
def test_an_estimate_is_held_against_its_slow_end_and_other_measurements_than_times_against_their_median(name):
    budget = Budget(**{name: 6.0})
    spread = {"value": 5.0, "low": 4.0, "high": 7.0}
    (miss,) = measured(**{name: Figure(origin="estimated", **spread)}).misses(budget)
    assert (miss.found, miss.too_close) == (7.0, False)
    for origin in ("host", "emulator", "board"):
        misses = measured(**{name: Figure(origin=origin, **spread)}).misses(budget)
        assert [miss.too_close for miss in misses] == ([] if name == "energy_mj" else [True])
    assert measured(**{name: Figure(5.0, "estimated")}).misses(budget) == ()


@pytest.mark.parametrize("name", ["latency_ms", "latency_ratio"])
@pytest.mark.parametrize(
    ("allowed", "state"), [(7.0, "met"), (6.9, "too close"), (4.0, "too close"), (3.9, "missed"), (5.0, "too close")]
)
def test_a_time_is_met_or_missed_only_with_its_whole_confidence_interval(name, allowed, state):
    found = measured(**{name: Figure(5.0, "host", 4.0, 7.0)})
    (judged,) = found.judged(Budget(**{name: allowed}))
    assert judged.state == state
    assert [str(miss) for miss in found.misses(Budget(**{name: allowed})) if "too close to call" in str(miss)] == (
        [str(judged.miss)] if state == "too close" else []
    )


def test_a_drop_is_counted_from_the_baseline_s_score():
    assert measured().misses(Budget(max_drop=0.02), 0.92) == ()
    (miss,) = measured().misses(Budget(max_drop=0.01), 0.92)
    assert miss == Miss("score", pytest.approx(0.91), 0.9)


@pytest.mark.parametrize(
    ("name", "limit", "label"), [(name, met, label) for name, met, _, label in LIMITS if name[-5:] != "bytes"]
)
def test_a_limit_without_a_figure_is_neither_met_nor_missed(name, limit, label):
    figure = "score" if name == "score_at_least" else name
    (judged,) = measured(**{figure: None}).judged(Budget(**{name: limit}))
    assert (judged.limit.name, judged.state, judged.found) == (label, "unjudged", None)
    assert measured(**{figure: None}).misses(Budget(**{name: limit})) == ()
    assert measured().judged(Budget(**{name: limit}))[0].state == "met"


@pytest.mark.parametrize(("allowed", "state"), [(2000, "in part"), (1999, "missed")])
def test_a_figure_that_is_a_part_may_miss_a_limit_and_never_meets_it(allowed, state):
    (judged,) = measured(ram_bytes=Figure(2000, "estimated", part=True)).judged(Budget(ram_bytes=allowed))
    assert judged.state == state


def test_a_drop_from_a_score_that_nobody_took_is_unjudged():
    assert [each.state for each in measured().judged(Budget(max_drop=0.01))] == ["unjudged"]
    assert [each.state for each in measured().judged(Budget(max_drop=0.01), 0.9)] == ["met"]


@pytest.mark.parametrize(("floor", "score"), [(0.0, -0.5), (-1.0, -1.5), (0.0, -1e-9)])
def test_scores_below_zero_miss_floors_at_and_below_zero(floor, score):
    (miss,) = measured(score=Figure(score, "host")).misses(Budget(score_at_least=floor))
    assert miss.share == pytest.approx(-score if floor == 0 else 0.5)


def test_the_worst_miss_comes_first():
    budget = Budget(flash_bytes=500, latency_ms=4.0, score_at_least=0.95)
    assert [miss.limit for miss in measured().misses(budget)] == ["flash", "latency", "score"]


optional = st.none() | st.builds(
    Figure,
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["estimated", "host", "emulator", "board"]),
    st.none() | st.floats(0, 1),
    st.none() | st.floats(0, 1),
)
measurements = st.builds(
    measured,
    flash_bytes=st.builds(Figure, st.integers(1, 4), st.just("host")),
    latency_ms=optional,
    latency_ratio=st.none() | st.builds(Figure, st.integers(1, 4), st.just("host")),
    score=st.none() | st.builds(Figure, st.integers(1, 4), st.just("host")),
    energy_mj=optional,
    parity=st.none() | st.builds(Parity, st.floats(0, 2), st.floats(0, 1), st.integers(1, 9)),
)


@settings(max_examples=100)
@given(measurements)
def test_a_measurement_survives_json(found):
    assert typed(Measurement, json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("name", ["flash_bytes", "ram_bytes", "conditions", "latency_ms"])
def test_a_measurement_that_lacks_a_part_is_not_read(name):
    data = measured().to_json()
    del data[name]
    with pytest.raises(UntrustedError, match=name):
        typed(Measurement, data)


def beats(one: Candidate, other: Candidate) -> bool:
    """At least as good in flash, latency and score, and better in one; written out as a second opinion."""
    pairs = []
    for each in (one.measurement, other.measurement):
        latency = each.latency_ratio.value
        score = each.score.value if each.score else float("-inf")
        pairs.append((each.flash_bytes.value, latency, score))
    (a_flash, a_latency, a_score), (b_flash, b_latency, b_score) = pairs
    no_worse = a_flash <= b_flash and a_latency <= b_latency and a_score >= b_score
    return no_worse and (a_flash < b_flash or a_latency < b_latency or a_score > b_score)


timed = measurements.filter(lambda found: found.latency_ratio is not None)


@settings(max_examples=100)
@given(st.lists(timed.map(lambda found: Candidate(Recipe(), found)), max_size=8))
def test_the_frontier_drops_the_beaten_and_only_those(pool):
    kept = frontier(pool)
    assert list(kept) == [one for one in pool if not any(beats(other, one) for other in pool)]
    assert bool(kept) == bool(pool)


def test_a_figure_knows_its_worst_end():
    assert Figure(5, "estimated", 4, 7).worst == 7
    assert Figure(5, "estimated").worst == 5
    assert Figure(5, "board", 4, 7).worst == 5
