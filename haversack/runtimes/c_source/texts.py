"""Texts: the C of the kernels that a network uses. For numbers of 16 bits it is that for 8 bits, in other words."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from functools import cache
from importlib.resources import files

_FILES = {
    "convolve": ("products", "pixels", "convolve"),
    "convolve_sparse": ("products", "sparse", "pixels", "convolve_sparse"),
    "convolve_depthwise": ("products", "depthwise"),
    "convolve_transposed": ("products", "convolve_transposed"),
    "connect": ("products", "connect"),
    "connect_sparse": ("products", "sparse", "connect_sparse"),
    "pool": ("pool",),
    "reduce": ("reduce",),
    "add": ("sum",),
    "multiply": ("product",),
    "choose": ("choose",),
    "limit": ("limit",),
    "fill": ("fill",),
}
"""The functions that layers call on numbers of 8 bits or, under names that end in _16, of 16, and their files."""
_OTHER_FILES = {
    "look_up": ("look_up",),
    "softmax": ("softmax",),
    "gather": ("gather",),
    "move": ("move",),
    "keep": ("keep",),
    "resize": ("resize",),
    "convolve_long_16": ("products", "convolve_long_16"),
    "look_up_16": ("look_up_16",),
    "pieces_16": ("pieces_16",),
    "curve_16": ("curve_16",),
    "softmax_16": ("softmax_16",),
}
"""Those on numbers of one size, or of any."""
_FOR_BOTH = frozenset({"products", "sparse"})
_WIDE = "_16"
_WORDS = {
    "int8_t": "Number16",
    "INT8_MIN": "INT16_MIN",
    **{name: f"{name}{_WIDE}" for name in ("four_at", "result_of", "result_of_twice", "kept")},
}
"""What stands for what else where numbers have 16 bits; so do the names that kernels define."""
_COMMENT_OR_WORD = re.compile(r"/\*.*?\*/|\b[A-Za-z_]\w*\b", re.DOTALL)


def on_numbers(kernel: str, record: str, dtype: str) -> tuple[str, str]:
    """The names of a kernel and of its record for numbers of this type."""
    return (f"{kernel}{_WIDE}", f"{record}{_WIDE}") if kernel in _FILES and dtype == "int16" else (kernel, record)


def text_of(kernels: Collection[str]) -> str:
    """The C of these functions, and of what they take."""
    return "\n".join(map(_text, dict.fromkeys(_files(kernels))))


def text_of_all() -> str:
    """The C of all functions that there are."""
    return text_of({*_FILES, *_OTHER_FILES, *(f"{kernel}{_WIDE}" for kernel in _FILES)})


def _files(kernels: Collection[str]) -> Iterator[str]:
    yield "arithmetic"
    for kernel, names in (*_FILES.items(), *_OTHER_FILES.items()):
        yield from names if kernel in kernels else ()
        if f"{kernel}{_WIDE}" in kernels:
            yield from (name if name in _FOR_BOTH else f"{name}{_WIDE}" for name in names)


@cache
def _text(name: str) -> str:
    narrow = name.removesuffix(_WIDE)
    if not any(narrow in names for names in _FILES.values()) or narrow == name:
        return _read(name)
    words = _WORDS | {each: f"{each}{_WIDE}" for each in _defined()}
    return re.sub(
        r"/\*.*?\*/|\b[A-Za-z_]\w*\b", lambda word: words.get(word[0], word[0]), _read(narrow), flags=re.DOTALL
    )


@cache
def _defined() -> frozenset[str]:
    """The names of the functions, types and numbers that files with a form for 16 bits define."""
    text = "\n".join(_read(name) for names in _FILES.values() for name in names if name not in _FOR_BOTH)
    functions = re.findall(r"^(?:static|HELPER|FOR_EACH_CALL)\b[^;(]*?(\w+)\(", text, re.MULTILINE)
    types = re.findall(r"^\} (\w+);", text, re.MULTILINE)
    numbers = [
        name for line in re.findall(r"^enum \{(.*)\};", text, re.MULTILINE) for name in re.findall(r"(\w+) =", line)
    ]
    return frozenset((*functions, *types, *numbers))


def _read(name: str) -> str:
    return (files(__package__) / "kernels" / f"{name}.c").read_text("utf-8")
