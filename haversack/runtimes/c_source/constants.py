"""Constants: the arrays and records of a C file, each written once however often it is used."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from haversack.integer import Array

_WIDTH = 116
_TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "int64": "int64_t",
}


@dataclass(frozen=True)
class Name:
    """Something else in the file, as it is called there."""

    text: str


Entry = int | Name | tuple[int, ...] | Mapping[str, "Entry"]
"""What a record's member is set to."""


@dataclass
class Constants:
    """What was written so far."""

    texts: list[str] = field(default_factory=list)
    flash_bytes: int = 0
    """Of the arrays."""
    _named: dict[tuple[str, bytes], Name] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def numbers(self, wanted: str, numbers: Array) -> Name:
        """An array of these numbers, called as `wanted` where no other one is."""
        array = np.ascontiguousarray(numbers).reshape(-1)
        key = (array.dtype.name, array.tobytes())
        if key not in self._named:
            self._named[key] = self.name(wanted)
            self.flash_bytes += array.nbytes
            hexadecimal = array.dtype == np.uint32
            kind = "uint32_t" if hexadecimal else _TYPES[array.dtype.name]
            words = [f"0x{number:08x}U" if hexadecimal else _plain(int(number)) for number in array]
            self.texts.append(f"static const {kind} {self._named[key].text}[{len(array)}] = {{\n{_wrapped(words)}\n}};")
        return self._named[key]

    def record(self, kind: str, wanted: str, entries: Mapping[str, Entry]) -> Name:
        """A record of this kind."""
        text = _record(entries, "    ")
        key = (kind, text.encode())
        if key not in self._named:
            self._named[key] = self.name(wanted)
            self.texts.append(f"static const {kind} {self._named[key].text} = {text};")
        return self._named[key]

    def reserve(self, text: str) -> None:
        """Nothing is called as something in this text is."""
        self._taken.update(re.findall(r"[A-Za-z_]\w*", text))

    def name(self, wanted: str) -> Name:
        """A name in C like this one, that is not taken."""
        plain = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "layer"
        plain = f"layer_{plain}" if plain[0].isdigit() else plain
        count, free = 1, plain
        while free in self._taken or free in _RESERVED:
            count += 1
            free = f"{plain}_{count}"
        self._taken.add(free)
        return Name(free)


_LONGEST = 40


def brief(path: str) -> str:
    """A layer's name, without what converters append to it."""
    first = path.partition(";")[0]
    return first if len(first) <= _LONGEST else first[-_LONGEST:].partition("/")[2] or first[-_LONGEST:]


_RESERVED = frozenset(
    re.findall(
        r"\w+",
        "auto break case char const continue default do double else enum extern float for goto if inline int long "
        "register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while "
        "main memcpy memset arena memory input output bool true false asm",
    )
)


def _plain(number: int) -> str:
    return "INT32_MIN" if number == -(1 << 31) else str(number)


def _record(entries: Mapping[str, Entry], indent: str) -> str:
    lines = [f"{indent}.{name} = {_entry(entry, indent)}," for name, entry in entries.items()]
    return "{\n" + "\n".join(lines) + f"\n{indent[4:]}}}"


def _entry(entry: Entry, indent: str) -> str:
    match entry:
        case Name(text):
            return text
        case int():
            return _plain(entry)
        case tuple():
            return "{" + ", ".join(map(str, entry)) + "}"
    return _record(entry, indent + "    ")


def _wrapped(words: list[str]) -> str:
    return "\n".join(_lines(words))


def _lines(words: list[str]) -> Iterator[str]:
    line = "   "
    for word in words:
        if len(line) + len(word) + 2 > _WIDTH:
            yield line
            line = "   "
        line += f" {word},"
    yield line
