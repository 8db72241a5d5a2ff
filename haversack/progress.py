"""Progress: what takes long says how far it is, to whoever listens; silent by default.

A long job says where it stands with `phase`, and what a user has to know at once with `tell`. What is said line by line
on the way goes to its log, where it has one (`logged_to`), and else to the listener.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO, TypeVar, runtime_checkable

T = TypeVar("T")


class Listener(Protocol):
    """Shows progress, for instance as bars in a terminal."""

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        """The items one by one, shown as they pass."""
        ...

    def say(self, line: str) -> None:
        """A line worth reading now."""
        ...


@dataclass(frozen=True)
class Status:
    """Where a long job stands."""

    phase: str
    """What it does now: "training"."""
    built: int = 0
    """So many candidates are measured."""
    about: int | None = None
    """Of about so many; None where nobody knows."""
    best: str = ""
    """The best so far against each limit."""


@runtime_checkable
class Watcher(Protocol):
    """A listener that shows where a job stands; others are told in a line."""

    def phase(self, status: Status) -> None:
        """The job goes on with this."""
        ...


_listener: ContextVar[Listener | None] = ContextVar("progress", default=None)
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)
_log: ContextVar[TextIO | None] = ContextVar("log", default=None)


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items one by one, shown to the listener under `label`."""
    listener = _listener.get()
    return iter(items) if listener is None else listener.track(items, label, total)


def say(line: str) -> None:
    """Writes a line into the job's log, or tells it to the listener where there is none."""
    log = _log.get()
    if log is None:
        _heard(line)
    else:
        log.write(f"{line}\n")


def tell(line: str) -> None:
    """Tells the listener what must be known now; it stands in the job's log too."""
    if _log.get() is not None:
        say(line)
    _heard(line)


def phase(status: Status) -> None:
    """Tells the listener where the job stands."""
    listener = _listener.get()
    if isinstance(listener, Watcher):
        listener.phase(status)
    elif listener is not None:
        listener.say(status.phase)
    if _log.get() is not None:
        say(f"# {status.phase}: {status.built} built{f'; best so far: {status.best}' if status.best else ''}")


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Within this block, what is said goes into a new file at `path`; to the listener where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("w", encoding="utf-8", buffering=1)
    except OSError:
        yield
        return
    token = _log.set(log)
    try:
        with log:
            yield
    finally:
        _log.reset(token)


def _heard(line: str) -> None:
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
