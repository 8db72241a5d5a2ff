"""Plain text at a fixed width: tables, paragraphs, and figures that never lose their origin."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from io import StringIO
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


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), foot: bool = False
) -> str:
    """The rows under their heads; columns in `right` are aligned right; with `foot` the last row is a sum.

    Columns of single words are never broken, so that each can be searched for, unless they are long.
    """
    grid = Table(box=_RULED, show_edge=False, pad_edge=False, show_footer=foot)
    last = rows[-1] if foot else [""] * len(head)
    for place, (title, end) in enumerate(zip(head, last, strict=True)):
        whole = all(" " not in row[place] and len(row[place]) <= _WORD for row in rows)
        side: Literal["left", "right"] = "right" if title in right else "left"
        grid.add_column(title, Text(end), justify=side, overflow="fold", no_wrap=whole)
    for row in rows[:-1] if foot else rows:
        grid.add_row(*(Text(cell) for cell in row))
    out = StringIO()
    Console(file=out, width=WIDTH, color_system=None, force_terminal=False, highlight=False).print(grid)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines() if line.strip())


def paragraph(text: str, first: str = "", rest: str | None = None) -> str:
    """The text wrapped to the width, its first line after `first`, the others after `rest` (blanks as wide)."""
    later = " " * len(first) if rest is None else rest
    return textwrap.fill(text, WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)


def document(*blocks: str) -> str:
    """The blocks that hold something, an empty line between them."""
    return "\n\n".join(block for block in blocks if block)


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
