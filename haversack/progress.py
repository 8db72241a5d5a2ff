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
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items one by one, shown to the listener under `label`."""
    listener = _listener.get()
    return iter(items) if listener is None else listener.track(items, label, total)


def say(line: str) -> None:
    """Tell the listener something worth reading now."""
    listener = _listener.get()
    if listener is not None:
        listener.say(line)


def note(line: str) -> None:
    """Says what whoever uses the result must know too: it goes into the notes of what is being made."""
    say(line)
    notes = _notes.get()
    if notes is not None and line not in notes:
        notes.append(line)


@contextmanager
def noted() -> Iterator[list[str]]:
    """The notes that are made within this block, each once. They are its own: a block around it does not get them."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Within this block, progress goes to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
