"""Files of unknown origin: what they may hold is bounded before it is built."""

import json
import os
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.errors import UntrustedError
from haversack.untrusted import Bounds, parse_toml, plain_name, read_json, read_text, typed

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(TEXTS | NUMBERS | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner))
BRACKETS = st.text(st.sampled_from("\"'\\#\n[],=a1"), max_size=40)


def written(folder: Path, text: str) -> Path:
    path = folder / "document.json"
    path.write_text(text, encoding="utf-8")
    return path


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@settings(max_examples=50)
@given(VALUES)
def test_any_document_within_the_bounds_is_read_as_it_was_written(tmp_path_factory, value):
    path = written(tmp_path_factory.getbasetemp(), json.dumps(value))
    assert read_json(path, Bounds(depth=60)) == value


@settings(max_examples=300)
@given(BRACKETS)
def test_no_quotes_hide_brackets_from_the_bounds(text):
    text = f"a = ['', {text}"
    try:
        found = parse_toml(text, "here", Bounds(depth=2))
    except UntrustedError:
        return
    assert depth(found) <= len(["the document", "a table", "of many", "a list", "in a list"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 12"),
        ('{"a":' * 100_000, "nested more than 12"),
        ("9" * 5000, "more than 40 digits"),
        ("-0." + "9" * 5000, "more than 40 digits"),
        (f"[{'0,' * 200_000}0]", "more than 100,000 values"),
        (f"[{'{},' * 200_000}0]", "more than 100,000 values"),
        (" " * 2_000_000, "more than 1,048,576 bytes"),
        ('"\\ud800"', "no Unicode"),
        ('"' * 100_000, "not a JSON document"),
        ('"\\"' * 300_000, "not a JSON document"),
        ("", "not a JSON document"),
    ],
)
def test_a_json_file_beyond_the_bounds_is_refused_at_once_and_costs_no_memory(tmp_path, text, said):
    path, begin = written(tmp_path, text), time.monotonic()
    tracemalloc.start()
    with pytest.raises(UntrustedError, match=said):
        read_json(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    "text",
    [
        f"a = {'[' * 5000}",
        f"a = {'{a = ' * 5000}",
        f"{'a.' * 5000}a = 1",
        f"[{'a . ' * 5000}a]",
        '"a".' * 5000 + "a = 1",
        f'a = ["""x"""", {"[" * 5000}',
        f"a = {'9' * 5000}",
        f"a = 0x{'f' * 5000}",
        '"\\"' * 300_000,
        "a = '''" + "'' " * 300_000,
    ],
)
def test_a_toml_text_that_takes_a_parser_long_or_deep_is_refused_at_once(text):
    begin = time.monotonic()
    with pytest.raises(UntrustedError, match=r"here: .*(document|nested|digits|parts)"):
        parse_toml(text, "here")
    assert time.monotonic() - begin < 5


def test_brackets_and_numbers_in_texts_and_comments_count_for_nothing(tmp_path):
    text = f"{'[' * 50}{'1' * 50},"
    assert read_json(written(tmp_path, json.dumps([text])))[0] == text
    toml = f'# {text}\na = "{text}"\nb = \'{text}\'\nc = """\n{text}"""""\nd = \'\'\'{text}\'\'\'\n'
    assert parse_toml(toml, "here") == {"a": text, "b": text, "c": f'{text}""', "d": text}


def test_the_mark_that_some_editors_begin_a_file_with_is_no_part_of_it(tmp_path):
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbfa = 1")
    assert read_text(tmp_path / "marked") == "a = 1"


def test_what_is_no_regular_file_of_text_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, said in {"pipe": "no regular file", "bytes": "no text", "absent": "cannot be read"}.items():
        with pytest.raises(UntrustedError, match=rf"{name}: it .*{said}"):
            read_text(tmp_path / name)
    with pytest.raises(UntrustedError, match="no regular file"):
        read_text(tmp_path)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../x", "a/b", "/x", "a\\b", ".hidden", "a\0b", "a\nb", "x" * 101, 3, None]
)
def test_a_name_that_may_leave_its_folder_is_not_plain(name):
    assert not plain_name(name)


@pytest.mark.parametrize("name", ["model.onnx", "model.data", "weights_0", "a-b.c"])
def test_a_name_of_a_file_is_plain(name):
    assert plain_name(name)


@dataclass(frozen=True)
class Inner:
    size: float
    kind: Literal["small", "large"] = "small"


@dataclass(frozen=True)
class Outer:
    inner: Inner
    maybe: Inner | None = None
    counts: tuple[int, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)


def test_typed_builds_what_the_fields_declare():
    data = {"inner": {"size": 3}, "maybe": None, "counts": [1, 2], "words": {"a": "b"}}
    assert typed(Outer, data) == Outer(Inner(3), None, (1, 2), {"a": "b"})
    assert typed(Outer, {"inner": {"size": 0.5, "kind": "large"}}).inner.kind == "large"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], r"Outer: it holds \[\]"),
        ({}, "Outer: it has no 'inner'"),
        ({"inner": {"size": 1}, "more": 1}, "Outer: it holds"),
        ({"inner": {"size": "1"}}, "Outer.inner.size: it holds '1'"),
        ({"inner": {"size": True}}, "Outer.inner.size: it holds True"),
        ({"inner": {"size": float("inf")}}, "Outer.inner.size: it holds inf"),
        ({"inner": {"size": 1, "kind": "huge"}}, "Outer.inner.kind: it holds 'huge'"),
        ({"inner": {"size": 1, "kind": []}}, r"Outer.inner.kind: it holds \[\]"),
        ({"inner": {"size": 1}, "counts": [1.5]}, "Outer.counts: it holds 1.5"),
        ({"inner": {"size": 1}, "counts": {"a": 1}}, "Outer.counts"),
        ({"inner": {"size": 1}, "words": {"a": ["b" * 100]}}, r"Outer.words: it holds \['b+\.\.\."),
        ({"inner": None}, "Outer.inner: it holds None"),
    ],
)
def test_typed_refuses_what_a_field_does_not_declare(data, said):
    with pytest.raises(UntrustedError, match=said):
        typed(Outer, data)
