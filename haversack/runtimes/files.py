"""A file that is measured: on disk or in memory, and which runtime it is for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from haversack.errors import MeasureError
from haversack.runtimes import File, Runtime, formats, named, rows

_MARK_BYTES = 8


def runtime_of(file: File) -> Runtime:
    """The runtime that the file's bytes are for: the first of the format whose mark they bear."""
    if isinstance(file, bytes):
        start = file[:_MARK_BYTES]
    else:
        with checked_path(file).open("rb") as stream:
            start = stream.read(_MARK_BYTES)
    marked = [row for row in rows() if row.format.mark]
    for row in marked:
        if re.match(row.format.mark, start, re.DOTALL):
            return row
    if isinstance(file, Path) and file.suffix in {Path(row.format.file).suffix for row in marked}:
        raise MeasureError(
            f"this is not a {file.suffix} file, or it is cut short.",
            where=str(file),
            mend=f"give a {file.suffix} model.",
        )
    return next(row for row in rows() if not row.format.mark)


def checked_runtime(file: File, wanted: str | None = None) -> Runtime:
    """The runtime that the file is for, or `wanted` where that runs such files too; it is installed."""
    runtime = runtime_of(file)
    if wanted is not None:
        other = named(wanted)
        if other is None or other.format != runtime.format:
            raise MeasureError(f"this is no file for {wanted}, but for {runtime.name}.", where=name_of(file))
        runtime = other
    if not runtime.is_installed:
        raise MeasureError(
            f"this needs {runtime.name}, which is not installed.", where=name_of(file), mend=runtime.install
        )
    return runtime


def checked_path(path: Path) -> Path:
    """`path`, which is a file."""
    if not path.is_file():
        kinds = one_of([known.kind for known in formats()])
        raise MeasureError("there is no such file.", where=str(path), mend=f"give the path of {_a(kinds)} file.")
    return path


def checked_threads(threads: int) -> int:
    """`threads`, one or more."""
    if threads < 1:
        raise MeasureError(f"{threads} threads cannot run anything.", mend="give 1 or more.")
    return threads


def name_of(file: File) -> str:
    """What an error calls the file."""
    return str(file) if isinstance(file, Path) else f"{_a(runtime_of(file).format.kind)} file of {len(file)} bytes"


def one_of(words: Sequence[str]) -> str:
    """The words as a choice: onnx, litert or executorch."""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'AEIO' else 'a'} {kind}"
