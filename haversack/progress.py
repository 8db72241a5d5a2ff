"""Progress: what takes long says how far it is, to whoever listens; silent by default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Listener(Protocol):
    """Shows progress, for instance as bars in a terminal."""

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        """The items one by one, shown as they pass."""
        ...

    def say(self, line: str) -> None:
        """A line worth reading now."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("progress", default=None)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items one by one, shown to the listener under `label`."""
    listener = _listener.get()
    return iter(items) if listener is None else listener.track(items, label, total)


def say(line: str) -> None:
    """Tell the listener something worth reading now."""
    listener = _listener.get()
    if listener is not None:
        listener.say(line)


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Within this block, progress goes to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
