"""Progress bars with the time left, in a terminal; plain lines, and no bars, where the output goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

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

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
