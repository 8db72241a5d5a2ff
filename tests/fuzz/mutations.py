"""What may have happened to a file: bits flipped, cut short, spliced, numbers and names replaced, nested deeply."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator

Random = random.Random
CANARY = "canary"
"""A file beside the folder that a command is given: nobody may read or write it."""
NAMES = (
    *(f"../{CANARY}", f"../../{CANARY}", f"files/../../../{CANARY}", f"/tmp/../tmp/{CANARY}", "..", ".", "/", ""),
    *("con", "\0", "a\0b", "a" * 300, "ä/ö", "😀", "\ud800", "${HOME}", "~", "%s%n", "file", "self", "__class__"),
)
NUMBERS = (
    *("0", "-0", "-1", "1", "2", "7", "255", "256", "65536", "2147483648", "4294967295", "9223372036854775808"),
    *("-9223372036854775809", "99999999999", "1" + "0" * 300, "1" + "0" * 5000, "1e308", "1e999", "-1e999"),
    *("5e-324", "0.1", "NaN", "Infinity", "-Infinity", "nan", "inf", "0x10", "1_000", "007", "true", "null"),
)
SPANS = ("0-9999999999", "5-0", "0-", "-", "0 0 0", "-1", "0-0-0", "1e3", "0-" + "9" * 5000)
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


def damaged(content: bytes, rng: Random) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        content = rng.choice(_BYTES)(content, rng)
    return content


def damaged_text(text: str, rng: Random) -> bytes:
    """A text with one to three changes that mind its words; now and then they mind nothing."""
    if rng.random() < 0.15:
        return damaged(text.encode(), rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        text = rng.choice(_TEXTS)(text, rng)
    return text.encode(errors="surrogatepass")


def damaged_json(text: str, rng: Random) -> bytes:
    """JSON with one to three of its values or keys replaced; now and then damaged as a text."""
    if rng.random() < 0.2:
        return damaged_text(text, rng)
    tree = json.loads(text)
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 2, 3))):
        _replace(tree, rng, raw)
    written = json.dumps(tree, indent=1)
    for mark, literal in raw.items():
        written = written.replace(f'"{mark}"', literal)
    return written.encode()


def with_checksum(content: bytes) -> bytes:
    """A coded file with the checksum that its bytes have, so that a reader goes on."""
    return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")


def _flip(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _edge(content: bytes, rng: Random) -> bytes:
    width, place = rng.choice((1, 2, 4, 8)), rng.randrange(len(content) + 1)
    edge = rng.choice(_EDGES) & ((1 << 8 * width) - 1)
    return content[:place] + edge.to_bytes(width, rng.choice(("little", "big"))) + content[place + width :]


def _truncate(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _splice(content: bytes, rng: Random) -> bytes:
    begin, place = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
    piece = content[begin : begin + rng.choice((1, 4, 16, 256, 4096))]
    return content[:place] + piece + content[place + rng.choice((0, len(piece))) :]


def _cut_out(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + content[place + rng.choice((1, 4, 64, 1024)) :]


def _noise(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice((1, 4, 32, 512))) + content[place:]


_BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip,
    _flip,
    _edge,
    _edge,
    _truncate,
    _splice,
    _cut_out,
    _noise,
)


def _one(pattern: str, text: str, rng: Random, by: str) -> str:
    """One of the places where the pattern is, replaced."""
    found = list(re.finditer(pattern, text))
    if not found:
        return text + by
    place = rng.choice(found)
    return text[: place.start()] + by + text[place.end() :]


def _number(text: str, rng: Random) -> str:
    return _one(r"-?\d[\d_.]*(e-?\d+)?", text, rng, rng.choice(NUMBERS))


def _name(text: str, rng: Random) -> str:
    return _one(r'"[^"\n]*"', text, rng, json.dumps(rng.choice(NAMES), ensure_ascii=rng.random() < 0.5))


def _kind(text: str, rng: Random) -> str:
    """A value of another type than it was."""
    others = ("true", "[]", "{}", '""', "[[1]]", '["a", 1]', "1979-05-27T07:32:00Z", "07:32:00", "{a = 1}", '"""x"""')
    return _one(r"(?<== )[^\n]+|(?<=: )[^\n,]+", text, rng, rng.choice(others))


def _nested(text: str, rng: Random) -> str:
    depth = rng.choice((50, 500, 5_000, 100_000))
    opened, closed = rng.choice((("[", "]"), ('{"a": ', "}"), ("{a = ", "}"), ("a.", "")))
    value = opened * depth + "1" + closed * rng.choice((0, depth))
    return _one(r"(?<== )[^\n]+|(?<=: )[^\n,]+", text, rng, value)


def _lines(text: str, rng: Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    again = rng.choice(lines) * rng.choice((0, 1, 2, 1000))
    return "".join((*lines[:place], again, *lines[place + rng.choice((0, 1)) :]))


_TEXTS: tuple[Callable[[str, Random], str], ...] = (_number, _number, _name, _name, _kind, _kind, _nested, _lines)


def _replace(tree: object, rng: Random, raw: dict[str, str]) -> None:
    """One value or key of the tree replaced; what Python's JSON does not write stands in `raw`, under its mark."""
    places = list(_places(tree))
    if not places:
        return
    holder, key = rng.choice(places)
    change = rng.randrange(8)
    if change == 0 and isinstance(holder, dict):
        holder[rng.choice(NAMES)] = holder.pop(key)
    elif change == 1:
        del holder[key]
    elif change in (2, 3):
        holder[key] = rng.choice((None, True, [], {}, [[]], {"a": 1}, "", "x", -1, 0.5, [None], {"": {}}))
    elif change == 4:
        holder[key] = rng.choice(NAMES)
    elif change == 5:
        holder[key] = rng.choice(SPANS)
    else:
        mark = f"mark {len(raw)}"
        nested = "[" * rng.choice((100, 3_000, 100_000))
        raw[mark] = rng.choice((*NUMBERS, nested + "]" * len(nested), nested))
        holder[key] = mark


def _places(tree: object) -> Iterator[tuple[dict[str, object] | list[object], str | int]]:
    """Every holder in the tree with every key of it."""
    if isinstance(tree, dict | list):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])
