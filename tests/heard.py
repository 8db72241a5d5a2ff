"""A listener that writes down what is said, for `haversack.progress.shown_by`."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Heard:
    """Shows nothing; `lines` is what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        """The items as they come."""
        return iter(items)

    def say(self, line: str) -> None:
        """Writes the line down."""
        self.lines.append(line)
