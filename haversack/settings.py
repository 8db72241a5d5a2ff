"""Settings: what each may be is said once, by its annotation, and `checked` holds it.

    keep: Fraction = 0.7
    rounds: Annotated[int, AtLeast(1)] = 1
    rounding: Literal["nearest", "gptq"] = "nearest"
    pairs: tuple[Annotated[str, Like("[^=]+=[^=]+", "layer1=layer1")], ...] = ()

A text in an annotation, as in `Annotated[Share, "the teacher's share"]`, is added to what the user is told to write.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from haversack.errors import RecipeError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LARGEST, _MOST = 1e30, 2**63 - 1
"""What float32 holds, its square roots and sums too; and what files hold of whole numbers."""
_NOUNS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class _Bound:
    """One end of the numbers that a setting may be."""

    limit: float

    words: ClassVar[str]
    compare: ClassVar[Callable[[Any, Any], bool]]

    def holds(self, value: Any) -> bool:  # noqa: ANN401 - whatever the user wrote
        """Whether a number is on the right side."""
        return type(self).compare(value, self.limit)

    def __str__(self) -> str:
        return f"{self.words} {self.limit:g}"


class AtLeast(_Bound):
    """Numbers from the limit up."""

    words, compare = "of at least", operator.ge


class AtMost(_Bound):
    """Numbers up to the limit."""

    words, compare = "at most", operator.le


class Above(_Bound):
    """Numbers above the limit, and not the limit itself."""

    words, compare = "above", operator.gt


class Below(_Bound):
    """Numbers below the limit, and not the limit itself."""

    words, compare = "below", operator.lt


@dataclass(frozen=True)
class Like:
    """Texts of a pattern (a regular expression), and an example that tells it."""

    pattern: str
    example: str

    def holds(self, value: str) -> bool:
        """Whether a text is of the pattern as a whole."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return f"such as {json.dumps(self.example)}"


Fraction = Annotated[float, Above(0), Below(1)]
"""A part that is neither nothing nor the whole."""
Share = Annotated[float, AtLeast(0), AtMost(1)]
Portion = Annotated[float, AtLeast(0), Below(1)]
"""A part that may be nothing, and is never the whole."""
Amount = Annotated[float, AtLeast(0)]
Positive = Annotated[float, Above(0)]
Count = Annotated[int, AtLeast(0)]
Bits = Annotated[int, AtLeast(2), AtMost(8)]


def checked(settings: DataclassInstance) -> None:
    """Raises RecipeError, which names the setting, where one is not what its annotation says; for `__post_init__`.

    A list may stand for a tuple, and a whole number for a real one: it becomes one.
    """
    hints = _hints(type(settings))
    for each in fields(settings):
        hint = hints[each.name]
        value = _kept(hint, getattr(settings, each.name))
        if not _fits(hint, value):
            mend = f"{_wanted(hint, each.default)}{', of common size' if _is_odd(value) else ''}."
            raise RecipeError(f"{each.name} {_wrong(hint, value)}.", mend=mend)
        object.__setattr__(settings, each.name, value)


@cache
def _hints(kind: type) -> dict[str, object]:
    return get_type_hints(kind, include_extras=True)


def _parts(hint: object) -> tuple[Any, tuple[object, ...]]:
    """A type, and what its annotation says beside it."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def _items(hint: object) -> object:
    """The annotation of a tuple's items; None where it is of no tuple."""
    kind, _ = _parts(hint)
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _kept(hint: object, value: object) -> object:
    """The value as a setting keeps it."""
    items = _items(hint)
    if items and isinstance(value, list | tuple):
        return tuple(_kept(items, item) for item in value)
    return float(value) if _parts(hint)[0] is float and type(value) is int and not _is_odd(value) else value


def _fits(hint: object, value: object) -> bool:
    (kind, said), items = _parts(hint), _items(hint)
    if items:
        return isinstance(value, tuple) and all(_fits(items, item) for item in value)
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)) or _is_odd(value):
        return False
    return all(each.holds(value) for each in said if isinstance(each, _Bound | Like))


def _is_odd(value: object) -> bool:
    """Whether it is a number that no computation stands: too large, or none at all."""
    return isinstance(value, int | float) and not abs(value) <= (_LARGEST if isinstance(value, float) else _MOST)


def _wrong(hint: object, value: object) -> str:
    items = _items(hint)
    if items and isinstance(value, tuple):
        return f"holds {next(item for item in value if not _fits(items, item))!r}"
    return f"is {value!r}"


def _wanted(hint: object, default: object) -> str:
    """What to write, with an example where the default is one."""
    kind, said = _parts(hint)
    remarks = "; ".join(each for each in said if isinstance(each, str))
    told = f" ({remarks})" if remarks else ""
    if get_origin(kind) is Literal:
        return f"choose from: {', '.join(str(each) or 'an empty text' for each in get_args(kind))}{told}"
    example = f", such as {default:g}" if isinstance(default, int | float) and kind is not bool else ""
    return f"write {_described(hint)}{example}{told}"


def _described(hint: object) -> str:
    (kind, said), items = _parts(hint), _items(hint)
    if items:
        examples = [each.example for each in _parts(items)[1] if isinstance(each, Like)]
        return f"a list such as {json.dumps(examples)}" if examples else f"a list, each of it {_described(items)}"
    bounds = " and ".join(str(each) for each in said if isinstance(each, _Bound))
    likes = (str(each) for each in said if isinstance(each, Like))
    return " ".join(filter(None, (_NOUNS.get(kind, str(kind)), bounds, *likes)))
