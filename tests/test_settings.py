"""Settings: an annotation says what each may be, and whatever else is written is refused by name."""

from __future__ import annotations

import math
import time
from dataclasses import MISSING, dataclass, fields, replace
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.errors import RecipeError
from haversack.settings import (
    Above,
    AtLeast,
    AtMost,
    Below,
    Bits,
    Count,
    Fraction,
    Like,
    Portion,
    Positive,
    Share,
    checked,
)
from haversack.techniques import catalogue
from haversack.training import Training

LENIENT = {"family", "pattern"}
"""Texts that are looked up, or read, by what knows them."""
KINDS = {**catalogue(), "training": Training}
SETTINGS = [(name, each.name) for name, kind in KINDS.items() for each in fields(kind)]
OTHERS = {int: 1.5, float: "0.5", str: 3, bool: "yes"}
ODD = [None, "", "nonsense", b"", {}, [[]], (None,), [b""], math.nan, math.inf, -math.inf, 1e31, 10**20, -(10**20)]


def hint(name: str, setting: str) -> tuple[object, tuple[object, ...]]:
    whole = get_type_hints(KINDS[name], include_extras=True)[setting]
    return (get_args(whole)[0], get_args(whole)[1:]) if get_origin(whole) is Annotated else (whole, ())


def ends(marks: tuple[object, ...]) -> dict[type, float]:
    return {type(each): each.limit for each in marks if isinstance(each, AtLeast | AtMost | Above | Below)}


def inside(kind: object, marks: tuple[object, ...]) -> st.SearchStrategy:
    """Values that the annotation allows."""
    limits, texts = ends(marks), [each.example for each in marks if isinstance(each, Like)]
    low, high = (limits.get(one, limits.get(other)) for one, other in ((AtLeast, Above), (AtMost, Below)))
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        parts = (get_args(inner)[0], get_args(inner)[1:]) if get_origin(inner) is Annotated else (inner, ())
        return st.lists(inside(*parts), max_size=1).map(tuple) | st.lists(inside(*parts), max_size=1)
    if kind is int:
        return st.integers(-(2**63) + 1 if low is None else int(low), 2**63 - 1 if high is None else int(high))
    if kind is float:
        drawn = st.floats(-1e30 if low is None else low, 1e30 if high is None else high, allow_nan=False)
        return drawn.filter(lambda value: limits.get(Above) != value != limits.get(Below)) | st.just(
            low + 1 if high is None else (low + high) / 2
        )
    return st.sampled_from(texts) if texts else st.booleans() if kind is bool else st.nothing()


def outside(kind: object, marks: tuple[object, ...]) -> list[object]:
    """Values that it does not: of another type, odd, or beyond an end."""
    if get_origin(kind) is Literal:
        return [each for each in [*ODD, True, 3.5, 10**6] if each not in get_args(kind)]
    if get_origin(kind) is tuple:
        return [None, "text", 7, {}, [None], (b"",), [{}], (math.nan,)]
    beyond: list[float] = []
    for end, limit in ends(marks).items():
        side = -1 if end in (AtLeast, Above) else 1
        beyond += [limit + side, limit + side * 1e6, *([limit] if end in (Above, Below) else [])]
        beyond += [math.nextafter(limit, side * math.inf)] if kind is float else []
    numbers = [int(each) for each in beyond] if kind is int else beyond
    wrong = [each for each in ODD if not isinstance(each, str)] if kind is str else ODD
    return [OTHERS[kind], *numbers, *([True] if kind in (int, float) else []), *wrong]


def is_allowed(kind: type, changes: dict[str, object]) -> bool:
    """Whether it is accepted; what several settings forbid together names two of them."""
    try:
        kind(**changes)
    except RecipeError as error:
        named = [each.name for each in fields(kind) if each.name in f"{error.what} {error.mend}"]
        return len(named) > 1
    return True


@pytest.mark.parametrize(("name", "setting"), SETTINGS, ids=str)
def test_a_setting_outside_its_annotation_is_refused_by_its_name_with_what_to_write(name, setting):
    for value in outside(*hint(name, setting)):
        with pytest.raises(RecipeError) as caught:
            KINDS[name](**{setting: value})
        assert caught.value.what.startswith(setting) or setting in LENIENT
        assert caught.value.mend.startswith(("write ", "choose from: ")) or setting in LENIENT


@pytest.mark.parametrize(("name", "setting"), [each for each in SETTINGS if each[1] not in LENIENT], ids=str)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_a_setting_inside_its_annotation_is_accepted(name, setting, data):
    assert is_allowed(KINDS[name], {setting: data.draw(inside(*hint(name, setting)))})


@pytest.mark.parametrize("name", KINDS)
def test_every_setting_has_a_default_that_may_be_written(name):
    assert all(each.default is not MISSING for each in fields(KINDS[name]))
    replace(KINDS[name]())


@pytest.mark.parametrize("text", ["a", " ", "=", "a=", " =", "= "])
def test_a_text_of_any_length_is_judged_at_once(text):
    """Patterns that go back and forth over what somebody wrote would take hours."""
    likes = [
        like
        for name, setting in SETTINGS
        for inner in get_args(hint(name, setting)[0])
        for like in get_args(inner)[1:]
        if isinstance(like, Like)
    ]
    assert len(likes) >= 5
    begin = time.process_time()
    for like in likes:
        for end in ("", "\n", "=\n"):
            like.holds(50_000 * text + end)
    assert time.process_time() - begin < 1


@dataclass(frozen=True)
class Everything:
    """A setting of every kind."""

    keep: Fraction = 0.7
    share: Annotated[Share, "the teacher's share"] = 0.7
    portion: Portion = 0.0
    rate: Positive = 3e-4
    count: Count = 2
    bits: Bits = 8
    ends: tuple[Bits, ...] = ()
    way: Literal["", "svd", "cp"] = "svd"
    fast: bool = True
    pairs: tuple[Annotated[str, Like("[^=]+=[^=]+", "layer1=layer1")], ...] = ()

    def __post_init__(self) -> None:
        checked(self)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("keep", 1.0, "keep is 1.0.|write a number above 0 and below 1, such as 0.7."),
        ("share", -1, "share is -1.0.|write a number of at least 0 and at most 1, such as 0.7 (the teacher's share)."),
        ("portion", "half", "portion is 'half'.|write a number of at least 0 and below 1, such as 0."),
        ("rate", 1e300, "rate is 1e+300.|write a number above 0, such as 0.0003, of common size."),
        ("count", True, "count is True.|write a whole number of at least 0, such as 2."),
        ("bits", 9, "bits is 9.|write a whole number of at least 2 and at most 8, such as 8."),
        ("ends", [8, 1], "ends holds 1.|write a list, each of it a whole number of at least 2 and at most 8."),
        ("way", "tt", "way is 'tt'.|choose from: an empty text, svd, cp."),
        ("fast", 1, "fast is 1.|write true or false."),
        ("pairs", "a=b", "pairs is 'a=b'.|write a list such as [\"layer1=layer1\"]."),
        ("pairs", ["a=b", "c"], "pairs holds 'c'.|write a list such as [\"layer1=layer1\"]."),
    ],
)
def test_one_kind_of_mistake_has_one_text(setting, value, said):
    with pytest.raises(RecipeError) as caught:
        Everything(**{setting: value})
    assert f"{caught.value.what}|{caught.value.mend}" == said


@given(st.integers(2, 8))
def test_a_whole_number_becomes_a_real_one_and_a_list_a_tuple(number):
    step = Everything(rate=number, pairs=["a=b"])
    assert (type(step.rate), step.rate, step.pairs) == (float, number, ("a=b",))
    assert Everything(ends=[number]) == Everything(ends=(number,))
