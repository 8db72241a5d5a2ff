"""Interrupt: whoever stops a run is heard, wherever it is, and there is time to write what was found."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from haversack.errors import StoppedError

_AGAIN_S = 2.0
_STOPS = (signal.SIGINT, signal.SIGTERM)
_ALARM = getattr(signal, "SIGALRM", None)


class Stopped(KeyboardInterrupt):
    """Somebody stopped a run that had something to show for it: `result`."""

    def __init__(self, result: object) -> None:
        super().__init__("stopped")
        self.result = result


_pressed: list[int] = []
"""What came in, until it is heard."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C, or SIGTERM, is a KeyboardInterrupt here, and a StoppedError in the end, whatever libraries make of it.

    Some turn the interrupt into an error of their own; a destructor swallows it. So it comes again until it is heard.
    """

    def stop(number: int, _: object) -> None:
        _pressed.append(number)
        _remind(_AGAIN_S)
        raise KeyboardInterrupt

    _pressed.clear()
    before = {number: signal.signal(number, stop) for number in (*_STOPS, *([_ALARM] if _ALARM else []))}
    unheard, sys.unraisablehook = sys.unraisablehook, _silent(sys.unraisablehook)
    try:
        yield
    except Stopped:
        raise
    except BaseException as error:
        if _pressed or isinstance(error, KeyboardInterrupt):
            raise StoppedError("stopped.", mend="repeat the command: what was finished is kept.") from None
        raise
    finally:
        heard()
        sys.unraisablehook = unheard
        for number, handler in before.items():
            signal.signal(number, handler)


def is_pressed() -> bool:
    """Whether somebody wants to stop and was not heard yet: an error now may be a library's word for it."""
    return bool(_pressed)


def heard() -> None:
    """Nothing comes again of an interrupt: whoever calls this ends the run in good order."""
    if _pressed:
        _pressed.clear()
        _remind(0)


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
