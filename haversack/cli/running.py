"""What a command does around its work: the task is read, progress shown, an interrupt heard, JSON printed."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from haversack.errors import HaversackError

if TYPE_CHECKING:
    from haversack.task import TaskFile

_AGAIN_S = 2.0


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
    from haversack.progress import shown_by
    from haversack.report.bars import Bars

    with interruptible():
        if quiet:
            yield
            return
        with Bars() as bars, shown_by(bars):
            yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends with a message, whatever the interrupted library makes of it.

    Some turn the interrupt into an error of their own; a destructor swallows it. So it comes again until it is heard.
    """
    pressed = []

    def stop(number: int, _: object) -> None:
        pressed.append(number)
        _remind(_AGAIN_S)
        raise KeyboardInterrupt

    heard = [signal.SIGINT, *([signal.SIGALRM] if hasattr(signal, "SIGALRM") else [])]
    before = {number: signal.signal(number, stop) for number in heard}
    unheard, sys.unraisablehook = sys.unraisablehook, _silent(sys.unraisablehook)
    try:
        yield
    except BaseException:
        if pressed:
            raise HaversackError("stopped.", mend="repeat the command: what was finished is kept.") from None
        raise
    finally:
        _remind(0)
        sys.unraisablehook = unheard
        for number, handler in before.items():
            signal.signal(number, handler)


def _silent(otherwise: Callable[[sys.UnraisableHookArgs], object]) -> Callable[[sys.UnraisableHookArgs], object]:
    """Nothing is printed of an interrupt that a destructor swallowed: it comes again."""

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            otherwise(unraisable)

    return hook


def _remind(seconds: float) -> None:
    """An alarm in so many seconds, where the system has one; 0 calls it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
