"""Untrusted: files of unknown origin, whose size, depth, digits and values are bounded before anything is built."""

from __future__ import annotations

import json
import math
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from itertools import accumulate
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from haversack.errors import UntrustedError

T = TypeVar("T")


@dataclass(frozen=True)
class Bounds:
    """What a document may have at most, of bytes, of levels within each other, and of values in all."""

    size_bytes: int = 1 << 20
    depth: int = 12
    values: int = 100_000


SMALL = Bounds()
_DIGITS = 40
"""More than any number that is written needs: 64 bits have 20, and the longest float 24."""
_LONG_NUMBER = re.compile(rf"[0-9A-Fa-f_]{{{_DIGITS + 1}}}")
# Texts go before brackets are counted. One that does not end reaches as far as the parser reads before it refuses.
_JSON_TEXT = re.compile(r'"(?:\\.|[^"\\])*"?', re.DOTALL)
_TOML_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\Z)'
    r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)
_EXACT: dict[Any, set[type]] = {float: {float, int}, int: {int}, str: {str}, bool: {bool}}
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,99}")


def read_file(path: Path, most_bytes: int) -> bytes:
    """The content of a regular file of at most so many bytes; raises UntrustedError for anything else."""
    try:
        known = path.stat()
        if not stat.S_ISREG(known.st_mode):
            raise UntrustedError("it cannot be read: no regular file.", where=str(path))
        if known.st_size > most_bytes:
            raise UntrustedError(f"it has more than {most_bytes:,} bytes.", where=str(path))
        with path.open("rb") as stream:
            content = stream.read(known.st_size + 1)
    except OSError as error:
        raise UntrustedError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
    if len(content) != known.st_size:
        raise UntrustedError("it changes while it is read.", where=str(path))
    return content


def read_text(path: Path, bounds: Bounds = SMALL) -> str:
    """The UTF-8 text in a file; raises UntrustedError, as `read_file` does."""
    return decoded(read_file(path, bounds.size_bytes), str(path))


def decoded(content: bytes, where: str) -> str:
    """The text that these bytes are in UTF-8; raises UntrustedError where they are none."""
    try:
        return content.decode("utf-8-sig")  # some editors begin with a mark
    except UnicodeDecodeError as error:
        raise UntrustedError("it holds no text.", where=where) from error


def read_json(path: Path, bounds: Bounds = SMALL) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What the JSON document in a file says; raises UntrustedError for one that is damaged or over its bounds."""
    return parse_json(read_text(path, bounds), str(path), bounds)


def parse_json(text: str, where: str, bounds: Bounds = SMALL) -> Any:  # noqa: ANN401 - whatever JSON holds
    """What a JSON document of a size within its bounds says; raises UntrustedError, as `read_json` does."""
    _check(text, _JSON_TEXT, bounds, where)
    try:
        found = json.loads(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UntrustedError("a text in it is no Unicode.", where=where) from error
    except ValueError as error:
        raise UntrustedError(f"not a JSON document: {error}.", where=where) from error
    return found


def parse_toml(text: str, where: str, bounds: Bounds = SMALL) -> dict[str, Any]:
    """What a TOML document says; raises UntrustedError for one that is damaged or over its bounds."""
    if len(text) > bounds.size_bytes:
        raise UntrustedError(f"it has more than {bounds.size_bytes:,} characters.", where=where)
    bare = _check(text, _TOML_TEXT, bounds, where)
    if max(run.count(".") for run in re.split(r"[,=\[\]{}\n]", bare)) > bounds.depth:
        raise UntrustedError(f"a key in it has more than {bounds.depth} parts.", where=where)
    try:
        return tomllib.loads(text)
    except ValueError as error:
        raise UntrustedError(f"not a TOML document: {error}.", where=where) from error


def plain_name(name: object) -> bool:
    """Whether this can only be a file within a folder: no separator, no dot in front, nothing odd."""
    return isinstance(name, str) and _PLAIN_NAME.fullmatch(name) is not None


def typed(kind: type[T], data: object, where: str = "") -> T:
    """The dataclass `kind` with the values of `data`, each of exactly the type that its field declares.

    A whole number may stand for a real one, a list for a tuple. Raises UntrustedError, naming the field.
    """
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(data, dict) or data.keys() - known.keys():
        raise _mistyped(where or kind.__name__, data)
    hints = get_type_hints(kind)
    for name, each in known.items():
        if name not in data and each.default is MISSING and each.default_factory is MISSING:
            raise UntrustedError(f"it has no '{name}'.", where=where or kind.__name__)
    return kind(
        **{name: _value(hints[name], value, f"{where or kind.__name__}.{name}") for name, value in data.items()}
    )


def _value(wanted: Any, value: object, where: str) -> Any:  # noqa: ANN401, PLR0911 - a type; a line each
    kind, parts = get_origin(wanted), get_args(wanted)
    if kind is UnionType and value is None and NoneType in parts:
        return None
    if kind is UnionType:
        return _value(next(each for each in parts if each is not NoneType), value, where)
    if kind is Literal and isinstance(value, str) and value in parts:
        return value
    if kind is frozenset and isinstance(value, list):
        return frozenset(_value(parts[0], each, where) for each in value)
    if kind is tuple and isinstance(value, list):
        alike = {type(each) for each in value} <= _EXACT.get(parts[0], set())
        return tuple(value if alike else (_value(parts[0], each, where) for each in value))
    if kind in (dict, Mapping) and isinstance(value, dict):
        return {key: _value(parts[1], each, where) for key, each in value.items()}
    if isinstance(wanted, type) and is_dataclass(wanted):
        return typed(wanted, value, where)
    if wanted is object:
        return value
    if type(value) in _EXACT.get(wanted, ()) and (not isinstance(value, float) or math.isfinite(value)):
        return value
    raise _mistyped(where, value)


def _check(text: str, texts: re.Pattern[str], bounds: Bounds, where: str) -> str:
    """The text without the texts in it; raises UntrustedError where a parser would build more than the bounds allow."""
    bare = texts.sub('"', text)
    if _LONG_NUMBER.search(bare):
        raise UntrustedError(f"it holds a number of more than {_DIGITS} digits.", where=where)
    if sum(map(bare.count, ",[{=")) > bounds.values:
        raise UntrustedError(f"it holds more than {bounds.values:,} values.", where=where)
    nested = accumulate(1 if mark in "[{" else -1 for mark in re.findall(r"[\[\]{}]", bare))
    if max(nested, default=0) > bounds.depth:
        raise UntrustedError(f"it is nested more than {bounds.depth} levels deep.", where=where)
    return bare


def _mistyped(where: str, value: object) -> UntrustedError:
    shown = repr(value)
    return UntrustedError(f"it holds {shown if len(shown) < 40 else shown[:36] + '...'}.", where=where)
