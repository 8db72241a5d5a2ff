"""Blocks of reports: tables and paragraphs as data, which `str` sets at a fixed width; figures with their origin."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from io import StringIO
from textwrap import fill
from typing import Literal

from rich.box import Box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from haversack import runtimes
from haversack.limits import Show
from haversack.measurement import Figure

WIDTH, _WORD = 100, 20
UNKNOWN = "unknown"
_RULED = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
"""A line under the head and above the foot, in ASCII, so that every terminal and log can show it."""


@dataclass(frozen=True)
class Rows:
    """A table: rows under their heads; columns in `right` are aligned right; with `foot` the last row is a sum."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    foot: bool = False

    def __str__(self) -> str:
        """Columns of single words are never broken, so that each can be searched for, unless they are long."""
        grid = Table(box=_RULED, show_edge=False, pad_edge=False, show_footer=self.foot)
        last = self.rows[-1] if self.foot else [""] * len(self.head)
        for place, (title, end) in enumerate(zip(self.head, last, strict=True)):
            whole = all(" " not in row[place] and len(row[place]) <= _WORD for row in self.rows)
            side: Literal["left", "right"] = "right" if title in self.right else "left"
            grid.add_column(title, Text(end), justify=side, overflow="fold", no_wrap=whole)
        for row in self.rows[:-1] if self.foot else self.rows:
            grid.add_row(*(Text(cell) for cell in row))
        out = StringIO()
        Console(file=out, width=WIDTH, color_system=None, force_terminal=False, highlight=False).print(grid)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


@dataclass(frozen=True)
class Paragraph:
    """A text wrapped to the width, its first line after `first`, the others after `rest` (blanks as wide)."""

    text: str
    first: str = ""
    rest: str | None = None

    def __bool__(self) -> bool:
        return bool(self.text)

    def __str__(self) -> str:
        later = " " * len(self.first) if self.rest is None else self.rest
        return fill(self.text, WIDTH, initial_indent=self.first, subsequent_indent=later, break_on_hyphens=False)


@dataclass(frozen=True)
class Lines:
    """Blocks right under each other."""

    blocks: Sequence[Block]

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def __str__(self) -> str:
        return "\n".join(map(str, self.blocks))


@dataclass(frozen=True)
class Document:
    """Blocks with an empty line between them."""

    blocks: Sequence[Block]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.blocks))


Block = Rows | Paragraph | Lines | Document | str
"""A part of a report: data, which `str` sets as text; a string stands as it is."""


def document(*blocks: Block) -> Document:
    """The blocks that hold something."""
    return Document([block for block in blocks if block])


def figure(found: Figure | None, show: Show) -> str:
    """A figure with its origin, its runtime and its spread: `31.2 ms (host, LiteRT, 30.9 to 31.8 ms)`."""
    if found is None:
        return UNKNOWN
    source = f"{found.origin}, {runtimes.title(found.runtime)}" if found.runtime else found.origin
    if found.low is None or found.high is None or found.low == found.high:
        return f"{show(found.value)} ({source})"
    low, high = show(found.low), show(found.high)
    unit = high.partition(" ")[2]
    return f"{show(found.value)} ({source}, {low.removesuffix(f' {unit}')} to {high})"
