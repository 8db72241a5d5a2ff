"""A process of its own for each measurement: started, asked, waited for, and its end and its stderr explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from haversack.disk import scratch_folder
from haversack.errors import CrashError, MeasureError
from haversack.runtimes import Arrays, File, Runtime
from haversack.runtimes.files import checked_path, checked_runtime, checked_threads, name_of

TIMEOUT_S = 300.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def ask(  # noqa: PLR0913 - the request's own fields
    job: str,
    files: Sequence[File],
    threads: int,
    *,
    timeout_s: float = TIMEOUT_S,
    inputs: Arrays | None = None,
    program: Path | None = None,
    **settings: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """The answer to one request of the program for these files, from a process of its own."""
    program = program or _one_runtime(files).format.worker
    request = {"job": job, "threads": checked_threads(threads), "seed": 0, **settings}
    with scratch_folder() as folder:
        request["files"] = [_on_disk(file, folder / str(index)) for index, file in enumerate(files)]
        request["inputs"] = _saved(inputs, folder / "inputs.npz")
        answer = _answer(program, request, timeout_s)
    if "refused" in answer:
        raise MeasureError(answer["refused"], where=name_of(files[answer["position"]]), mend=answer["mend"])
    return answer


def _one_runtime(files: Sequence[File]) -> Runtime:
    """The runtime of all the files: they take turns in one process."""
    runtimes = [checked_runtime(file) for file in files]
    if len(set(runtimes)) > 1:
        names = " and ".join(f"{name_of(file)} ({runtime.name})" for file, runtime in zip(files, runtimes, strict=True))
        raise MeasureError(
            f"files of different runtimes cannot take turns in one process: {names}.", mend="time each by itself."
        )
    return runtimes[0]


def _answer(program: Path, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """The answer of `program` to `request`. Without `-P` a numpy.py in the user's folder would be imported."""
    try:
        done = subprocess.run(  # noqa: S603 - our own file
            [sys.executable, "-P", str(program)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment(request["threads"]),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasureError(
            f"measuring took longer than {timeout_s:g} s and was stopped.", mend="measure a smaller network."
        ) from error
    if done.returncode != 0:
        last = "; ".join(done.stderr.strip().splitlines()[-3:])
        raise CrashError(f"the process that measured {ending(done.returncode)}{': ' if last else '.'}{last}")
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise MeasureError(f"the process that measured gave no answer, but {done.stdout[-200:]!r}.") from error
    return answer


def environment(threads: int | None) -> dict[str, str]:
    """Ours, for a process whose libraries take so many threads; None is as many as they like."""
    limits = {} if threads is None else dict.fromkeys(_THREAD_VARIABLES, str(threads))
    return {**os.environ, **limits}


def ending(code: int) -> str:
    """How a process ended: by a signal on POSIX, by its exit code elsewhere."""
    if code >= 0:
        return f"ended with code {code:#x}" if code > 255 else f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (is memory short?)" if name == "SIGKILL" else "")


def _on_disk(file: File, path: Path) -> str:
    """The file's own path, or `path` with the bytes written to it."""
    if isinstance(file, Path):
        return str(checked_path(file).resolve())
    path.write_bytes(file)
    return str(path)


def _saved(arrays: Arrays | None, path: Path) -> str | None:
    import numpy as np

    if arrays is None:
        return None
    np.savez(path, *arrays)
    return str(path)


@contextmanager
def caught() -> Iterator[BinaryIO]:
    """Within this block stderr goes to the file that it gives, also what libraries write to it on their own."""
    before = os.dup(2)
    try:
        with scratch_folder() as folder, (folder / "stderr").open("w+b") as place:
            os.dup2(place.fileno(), 2)
            try:
                yield place
            finally:
                os.dup2(before, 2)
    finally:
        os.close(before)


def lines(place: BinaryIO) -> list[str]:
    """What was written so far, line by line."""
    place.seek(0)
    return [line.strip() for line in place.read().decode(errors="replace").splitlines() if line.strip()]
