"""Terminal: what a command does around its work. The task is read, progress shown, an interrupt heard, JSON printed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from haversack.errors import TaskError
from haversack.progress import Status

if TYPE_CHECKING:
    from haversack.task import TaskFile

T = TypeVar("T")


class Bars:
    """A listener for `haversack.progress` that writes to `console`: standard error, unless another is given."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._standing: TaskID | None = None
        self._status, self._best, self._began = Status(""), "", time.monotonic()

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        """The items one by one, a bar moving along."""
        bar = self._progress.add_task(label, total=total)
        try:
            for item in items:
                yield item
                self._progress.advance(bar)
        finally:
            self._progress.remove_task(bar)

    def say(self, line: str) -> None:
        """The line, above the bars."""
        self._console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def phase(self, status: Status) -> None:
        """In a terminal a line that stays in its place, elsewhere a line each; a better best so far is always one."""
        if status == self._status:
            return
        if status.best and status.best != self._best:
            self._best = status.best
            self.say(f"best so far: {status.best}")
        self._status, left = status, self._left(status)
        if not self._console.is_terminal:
            self.say(f"{_line(status)}{left}")
        elif self._standing is None:
            self._standing = self._progress.add_task(_line(status), total=status.about, completed=status.built)
        else:
            self._progress.update(self._standing, description=_line(status), total=status.about, completed=status.built)

    def _left(self, status: Status) -> str:
        """How long the candidates that are not built yet take, if they take as long as those that are."""
        if not status.built or status.about is None:
            self._began = time.monotonic() if not status.built else self._began
            return ""
        seconds = (time.monotonic() - self._began) / status.built * max(0, status.about - status.built)
        return f", about {seconds:.0f} s left"

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


def _line(status: Status) -> str:
    about = f" of about {status.about}" if status.about is not None else ""
    return f"{status.phase}{f' ({status.built}{about} built)' if status.built or about else ''}"


P = ParamSpec("P")
STOPPED, UNEXPECTED = 130, 70
"""The exit codes of what somebody stopped, as shells have it, and of an error of ours, as BSD's sysexits have it."""


def loaded(path: Path) -> TaskFile:
    """The network and the task in the user's file."""
    from haversack.progress import say
    from haversack.task import read_task_file

    say(f"reading {path}")
    return read_task_file(path)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """The command, of which nothing that the user's code does makes an end without a word."""

    @wraps(command)
    def run(*words: P.args, **options: P.kwargs) -> None:
        try:
            command(*words, **options)
        except SystemExit as error:
            raise TaskError(
                f"code that we ran called sys.exit({'' if error.code is None else repr(error.code)}).",
                mend="let the network's forward(), and whatever else it runs, raise an error instead.",
            ) from error

    return run


def unexpected(error: Exception) -> str:
    """What is said of an error that nobody foresaw."""
    lines = str(error).strip().splitlines() or [""]
    return (
        f"unexpected {type(error).__name__}: {lines[0]}\n"
        "  This should not happen: please report it with the traceback that the variable HAVERSACK_DEBUG=1 shows."
    )


def print_json(data: object) -> None:
    """Prints data for machines; what JSON has no number for is null."""
    typer.echo(json.dumps(_numbered(data), indent=1, default=str))


def _numbered(data: object) -> object:
    if isinstance(data, Mapping):
        return {name: _numbered(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [_numbered(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


@contextmanager
def progress(*, quiet: bool) -> Iterator[None]:
    """Bars with time left in a terminal; plain lines where the output goes elsewhere; nothing beside JSON."""
    from haversack.interrupt import interruptible
    from haversack.progress import shown_by

    with interruptible():
        if quiet:
            yield
            return
        with Bars() as bars, shown_by(bars):
            yield
