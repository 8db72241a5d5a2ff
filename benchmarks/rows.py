"""What benchmarks share: rows chosen by name, figures kept in one JSON file, a table of what was asked and found."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from figures import Found, Measured, commit, kept, write
from rich.console import Console
from rich.table import Table

from haversack.cli.terminal import Bars
from haversack.errors import HaversackError
from haversack.progress import shown_by

THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
Row = Callable[[Path, bool], Found]
"""(data folder, quick) -> figures by name."""
Summed = Callable[[Found], Mapping[str, Found]]
"""Figures by name -> rows that follow from them, such as a mean over rows that were measured one by one."""


@dataclass(frozen=True)
class Asked:
    """What the figures are held against."""

    at_least: Mapping[str, float] = field(default_factory=dict)
    at_most: Mapping[str, float] = field(default_factory=dict)

    def met(self, name: str, value: float) -> bool:
        """Whether a figure is what was asked of it."""
        return self.at_least.get(name, value) <= value <= self.at_most.get(name, value)


def main(description: str, rows: Mapping[str, Row], asked: Asked, summed: Summed = lambda _: {}) -> None:
    """Runs the chosen rows, writes JSON after each, and prints a table. A user's mistake ends with its message."""
    words = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument(
        "--data", type=Path, required=True, help="folder with cifar10/, cifar10-resnets/, mlperf-tiny/ …"
    )
    words.add_argument("--json", type=Path, required=True, help="where to write the figures; others there are kept")
    words.add_argument("--only", nargs="*", default=[""], help=f"of {', '.join(rows)}: names or their beginnings")
    words.add_argument("--quick", action="store_true", help="a small part of the data: a smoke test, not a result")
    options = words.parse_args()
    title = description.partition(":")[0]
    try:
        show(title, _run(options, rows, summed), asked)
    except HaversackError as error:
        print(f"{title}: {error}", file=sys.stderr)
        sys.exit(2)


def part(module: str, **settings: object) -> Row:
    """The row that `module` runs with these settings, imported when its turn comes."""

    def row(data: Path, quick: bool) -> Found:  # noqa: FBT001 - a row's two arguments
        found: Found = import_module(module).run(data, quick=quick, **settings)
        return found

    return row


def _run(options: argparse.Namespace, rows: Mapping[str, Row], summed: Summed) -> dict[str, Measured]:
    chosen = {name: row for name, row in rows.items() if any(_means(each, name, rows) for each in options.only)}
    if not chosen:
        raise HaversackError(f"no row is called {' or '.join(options.only)}.", mend=f"choose from {', '.join(rows)}.")
    if not options.data.is_dir():
        raise HaversackError("there is no such folder.", where=str(options.data), mend="give the data folder.")
    torch.set_num_threads(THREADS)
    code = commit()
    kept(options.json, chosen, quick=options.quick)
    with Bars() as bars, shown_by(bars):
        for name, row in chosen.items():
            figures = _figures(name, row, options)
            # A row is measured whole or not at all: old figures of it do not mix with new ones. What another run wrote
            # into the file meanwhile stays.
            found = kept(options.json, [name], quick=options.quick)
            found[name] = Measured.here(figures, quick=options.quick, commit=code)
            found |= _following(found, summed, quick=options.quick, commit=code)
            write(options.json, found)
    return found


def _means(words: str, name: str, rows: Collection[str]) -> bool:
    """Whether these words choose the row of that name: a row's whole name chooses no other one."""
    return name == words if words in rows else name.startswith(words)


def _following(rows: Mapping[str, Measured], summed: Summed, *, quick: bool, commit: str) -> dict[str, Measured]:
    """The rows that follow from those that are as quick as this run; a quick one replaces no whole one."""
    known = {name: value for row in rows.values() if row.quick == quick for name, value in row.figures.items()}
    return {
        name: Measured.here(figures, quick=quick, commit=commit)
        for name, figures in summed(known).items()
        if not quick or name not in rows or rows[name].quick
    }


def _figures(name: str, row: Row, options: argparse.Namespace) -> Found:
    try:
        return row(options.data, options.quick)
    except FileNotFoundError as error:
        if options.data not in Path(str(error.filename)).parents:
            raise
        mend = "give the folder that holds the data of this row."
        raise HaversackError(f"{name} needs {error.filename}, which is not there.", mend=mend) from error


def show(title: str, rows: Mapping[str, Measured], asked: Asked) -> None:
    """A table of what was asked and what was found; figures of quick rows are marked, and never met."""
    found = {name: value for row in rows.values() for name, value in row.figures.items()}
    quick = {name for row in rows.values() if row.quick for name in row.figures}
    table = Table("figure", "asked", "found", "", title=title)
    for sign, limits in ((">=", asked.at_least), ("<=", asked.at_most)):
        for name, limit in limits.items():
            if name not in found:
                continue
            value = float(str(found[name]))
            state = "quick" if name in quick else "met" if asked.met(name, value) else "MISSED"
            table.add_row(name, f"{sign} {limit:g}", f"{value:.6g}", state)
    others = {name: value for name, value in found.items() if name not in {*asked.at_least, *asked.at_most}}
    for name, value in others.items():
        values = value if isinstance(value, list) else [value]
        if all(isinstance(each, int | float) for each in values):
            table.add_row(name, "", ", ".join(f"{each:.6g}" for each in values), "quick" * (name in quick))
    Console().print(table)
