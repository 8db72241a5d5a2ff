"""What a command does around its work: the task is read, progress shown, an interrupt heard, JSON printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from haversack.task import TaskFile

STOPPED = 130
"""The exit code of what somebody stopped, as shells have it."""


def loaded(path: Path) -> TaskFile:
    """The network and the task in the user's file."""
    from haversack.task import read_task_file

    return read_task_file(path)


def print_json(data: object) -> None:
    """Prints data for machines."""
    typer.echo(json.dumps(data, indent=1, default=str))


@contextmanager
def progress(*, quiet: bool) -> Iterator[None]:
    """Bars with time left in a terminal; plain lines where the output goes elsewhere; nothing beside JSON."""
    from haversack.interrupt import interruptible
    from haversack.progress import shown_by
    from haversack.report.bars import Bars

    with interruptible():
        if quiet:
            yield
            return
        with Bars() as bars, shown_by(bars):
            yield
