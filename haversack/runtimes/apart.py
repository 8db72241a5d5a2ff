"""A file in a process of its own: a runtime that crashes over it takes nobody along, and its end is explained.

The process (`worker_apart.py`) lives as long as the function that runs the file. Both speak in frames: a line of JSON,
and as many arrays as it announces in NumPy's own format.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from haversack.errors import CrashError, MeasureError
from haversack.runtimes import Arrays, File, Opened, Orders, Runtime
from haversack.runtimes.files import checked_path, name_of
from haversack.runtimes.process import TIMEOUT_S, ending, environment, lines

Array = np.ndarray[Any, Any]


def send(stream: IO[bytes], head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Writes one frame."""
    announced = [(array.dtype.str, array.shape) for array in arrays]
    stream.write(json.dumps({**head, "arrays": announced}).encode() + b"\n")
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def received(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """The next frame. Raises EOFError where the other process has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head: dict[str, Any] = json.loads(line)
    return head, [_array(stream, np.dtype(kind), shape) for kind, shape in head.pop("arrays")]


def _array(stream: IO[bytes], kind: np.dtype[Any], shape: Sequence[int]) -> Array:
    size = kind.itemsize * math.prod(shape)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return np.frombuffer(content, kind).reshape(shape)


_PROGRAM = Path(__file__).parent / "worker_apart.py"
_AT_ONCE = 32
"""Samples that are sent together: what has to come back in time."""


def open_apart(
    file: File, runtime: Runtime, threads: int | None, orders: Orders | None = None, *, optimized: bool = True
) -> Opened:
    """The file in that runtime, in a process of its own. Raises CrashError where that ends, now or in a run."""
    process = _Process(name_of(file), threads)
    path = "" if isinstance(file, bytes) else str(checked_path(file).resolve())
    content = [np.frombuffer(file, np.uint8)] if isinstance(file, bytes) else []
    settings = {"runtime": runtime.name, "path": path, "threads": threads, "orders": orders, "optimized": optimized}
    answer, _ = process.ask(settings, content)

    def run(arrays: Arrays) -> list[Array]:
        count = len(arrays[0])
        parts = ([array[at : at + _AT_ONCE] for array in arrays] for at in range(0, count, _AT_ONCE))
        found = [process.ask({}, part)[1] for part in parts]
        return [np.concatenate(each) for each in zip(*found, strict=True)]

    return Opened(answer["inputs"], None, list, run)


class _Process:
    """The process of one file, which ends with this object."""

    def __init__(self, where: str, threads: int | None) -> None:
        self._where = where
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - the process writes to it as long as it lives
        self._process = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-P", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(threads),
        )
        weakref.finalize(self, _end, self._process, self._errors)

    def ask(self, head: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], list[Array]]:
        """The answer to one frame."""
        timer = threading.Timer(TIMEOUT_S, self._process.kill)
        begin = time.monotonic()
        timer.start()
        try:
            send(cast("IO[bytes]", self._process.stdin), head, arrays)
            answer, found = received(cast("IO[bytes]", self._process.stdout))
        except (OSError, EOFError) as error:
            raise self._crash(late=time.monotonic() - begin >= TIMEOUT_S) from error
        finally:
            timer.cancel()
        if "refused" in answer:
            raise MeasureError(answer["refused"], where=self._where, mend=answer["mend"])
        return answer, found

    def _crash(self, *, late: bool) -> CrashError:
        """How the process ended."""
        code = self._process.wait()
        if late:
            return CrashError(f"the runtime did not come back within {TIMEOUT_S:g} s.", where=self._where)
        last = "; ".join(lines(self._errors)[-2:])
        said = f"the process that ran it {ending(code)}{': ' if last else '.'}{last}"
        return CrashError(said, where=self._where, mend="the file is damaged, or its runtime is: write the file again.")


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    """Ends the process: it reads no more, and its answer, if any, is wanted no more."""
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        with contextlib.suppress(OSError):  # a frame that nobody took
            cast("IO[bytes]", stream).close()
