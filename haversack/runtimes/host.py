"""How long a file takes and how much memory it needs on this machine's CPU, in the runtime that its bytes are for.

Files are run in a fresh process (`process.py` starts a `worker.py`), so that no memory, thread or crash of ours
mixes with theirs.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import haversack
from haversack.artifact import Orders
from haversack.disk import scratch_folder
from haversack.errors import MeasureError
from haversack.measurement import BenchReport, Figure
from haversack.runtimes.apart import open_file as separate
from haversack.runtimes.executorch import run as executorch_file
from haversack.runtimes.files import (
    Arrays,
    Contents,
    File,
    Opened,
    checked_runtime,
    checked_threads,
    name_of,
    runtime_of,
)
from haversack.runtimes.onnx import openvino
from haversack.runtimes.onnx import run as onnx_file
from haversack.runtimes.process import TIMEOUT_S, ask
from haversack.runtimes.tflite import micro
from haversack.runtimes.tflite import run as litert_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MEMORY_PROCESSES = 3
_READERS = {
    "onnx": onnx_file,
    "openvino": openvino,
    "litert": litert_file,
    "tflite-micro": micro,
    "executorch": executorch_file,
}


@dataclass(frozen=True)
class Timing:
    """How long one file takes at batch 1, and against the first file that it was timed with."""

    latency_ms: Figure
    """Median over the rounds of each round's median; `low` to `high` are the rounds' 10th to 90th percentiles."""
    ratio: Figure
    """Median over the rounds of (this file / the first file) within one round, spread likewise."""


def time_files(  # noqa: PLR0913 - all but the files have defaults
    files: Sequence[File],
    *,
    threads: int = 1,
    seconds: float = 3.0,
    seed: int = 0,
    inputs: Arrays | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[Timing, ...]:
    """The latency of each file at batch 1, and its ratio to the first: both figures from one process, taking turns.

    `seconds` is what all files together are run for, save that there are three rounds at least. The inputs are random
    by the files' shapes unless `inputs` gives arrays, which then go to every file. A file whose batch size is fixed is
    timed with that batch. Ratios within a round cancel what a neighbour on a shared machine takes; times cannot.
    """
    if not files:
        raise MeasureError("no files to time.")
    if not 0 < seconds < float("inf"):
        raise MeasureError(f"{seconds} seconds of timing make no sense.", mend="give more than zero seconds.")
    answer = ask("time", files, threads, timeout_s=timeout_s, seconds=seconds, seed=seed, inputs=inputs)
    return _timings(answer["rounds"], runtime_of(files[0]))


def peak_ram(file: File, threads: int = 1, *, inputs: Arrays | None = None, timeout_s: float = TIMEOUT_S) -> Figure:
    """Bytes of peak resident memory that loading and running the file at batch 1 add to an empty session's.

    The median of three fresh processes, `low` to `high` being the extremes. Loading counts (the weights are in memory
    twice for a moment), the runtime's code does not. It is read to about 0.2 MB, so the figure of a tiny network may
    be less than its weights; below zero it is reported as zero.
    """

    def grown() -> int:
        return int(ask("memory", [file], threads, timeout_s=timeout_s, inputs=inputs)["grown_bytes"])

    checked_threads(threads)
    runtime = checked_runtime(file)
    empty = _empty_session_bytes(runtime, threads)
    found = sorted(max(0, grown() - empty) for _ in range(_MEMORY_PROCESSES))
    return Figure(statistics.median(found), "host", found[0], found[-1], runtime=runtime)


def load(  # noqa: PLR0913 - all but the file have defaults
    file: File,
    threads: int | None = None,
    *,
    runtime: str | None = None,
    orders: Orders | None = None,
    optimized: bool = True,
    apart: bool = False,
) -> Callable[..., Tensor]:
    """A function from batches of inputs to the outputs, run in the file's runtime.

    It takes and gives torch tensors in torch's layout. Inputs are cast to the numbers that an ONNX file wants (never a
    fraction to an integer) and put on the grid that a .tflite file wants; float16 outputs come back as float32. A file
    with a fixed batch size is run piece by piece. None threads means as many as the runtime likes. `runtime` runs a
    .tflite file in "tflite-micro" and an ONNX file in "openvino" instead; `orders` says how a .tflite file's inputs and
    outputs lie, or is guessed. Without `optimized` ONNX Runtime and LiteRT run what stands in the file, node by node.

    It runs `apart`, in a process of its own, where the file is not known to be sound, and always in tflite-micro, which
    believes every number in a file: a runtime that crashes is a CrashError then.
    """
    if threads is not None:
        checked_threads(threads)
    where = name_of(file)
    name = checked_runtime(file, runtime)
    opener = separate if apart or name == "tflite-micro" else open_here
    opened = opener(file, name, threads, orders, optimized=optimized)

    def predict(*inputs: Tensor) -> Tensor:
        import numpy as np
        import torch

        if len(inputs) != opened.inputs:
            raise MeasureError(f"it takes {opened.inputs} inputs, but {len(inputs)} were given.", where=where)
        found = outputs(opened, [tensor.detach().cpu().contiguous().numpy() for tensor in inputs], where)
        output = torch.from_numpy(np.ascontiguousarray(found))
        return output.float() if output.dtype == torch.float16 else output

    return predict


def open_here(
    file: File, runtime: str, threads: int | None, orders: Orders | None = None, *, optimized: bool = True
) -> Opened:
    """The file in that runtime, within this process."""
    opened: Opened = _READERS[runtime].open_file(file, threads, orders, optimized=optimized)
    return opened


def outputs(opened: Opened, inputs: Arrays, where: str) -> np.ndarray[Any, Any]:
    """What the file makes of one batch."""
    arrays = opened.prepare(inputs)
    return opened.run(arrays) if opened.batch is None else _in_pieces(opened, arrays, where)


def contents(file: File, threads: int) -> Contents:
    """What stands in the file, and what its runtime makes of it."""
    reader = _READERS[checked_runtime(file)]
    with scratch_folder() as folder:
        path = file if isinstance(file, Path) else folder / "model"
        if isinstance(file, bytes):
            path.write_bytes(file)
        found: Contents = reader.contents(path, threads)
    return found


def bench(path: Path, threads: int = 1, seconds: float = 3.0, against: Path | None = None) -> BenchReport:
    """Size, peak memory, latency and operators of the file at `path`, and its latency over `against`'s."""
    files = [path] if against is None else [against, path]
    runtimes = [checked_runtime(file) for file in files]
    found = contents(path, threads)
    timing = time_files(files, threads=threads, seconds=seconds)[-1]
    return BenchReport(
        file=str(path),
        runtime=runtimes[-1],
        against=str(against) if against else None,
        threads=threads,
        disk_bytes=found.disk_bytes,
        ram_bytes=peak_ram(path, threads),
        latency_ms=timing.latency_ms,
        ratio=timing.ratio if against else None,
        operators=found.operators,
        operators_as_run=found.as_run,
        integer_operators=found.integer,
        warnings=found.warnings,
        machine=machine(),
        versions=versions(),
    )


def machine() -> str:
    """This machine's processor, cores and operating system on one line."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """The versions of what a figure depends on; read, not imported."""
    found = {"haversack": haversack.__version__, "python": platform.python_version()}
    for name in ("torch", "onnx", "onnxruntime", "ai-edge-litert", "tflite-micro", "executorch", "openvino", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _timings(rounds: Sequence[Sequence[float]], runtime: str) -> tuple[Timing, ...]:
    """The figures of each file from its medians (ms) in every round."""
    firsts = [found[0] for found in rounds]
    timings = []
    for times in zip(*rounds, strict=True):
        ratios = [ours / first for ours, first in zip(times, firsts, strict=True)]
        timings.append(Timing(_spread(times, runtime), _spread(ratios, runtime)))
    return tuple(timings)


def _spread(values: Sequence[float], runtime: str) -> Figure:
    """The median with the 10th and 90th percentile. These are interpolated: rounding must not push them past it."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    median = statistics.median(values)
    return Figure(median, "host", min(deciles[0], median), max(deciles[-1], median), runtime=runtime)


@functools.lru_cache
def _empty_session_bytes(runtime: str, threads: int) -> int:
    """What a session adds that does next to nothing: the median of three fresh processes."""
    file = _READERS[runtime].empty()
    found = [int(ask("memory", [file], threads)["grown_bytes"]) for _ in range(_MEMORY_PROCESSES)]
    return int(statistics.median(found))


def _in_pieces(opened: Opened, arrays: Arrays, where: str) -> np.ndarray[Any, Any]:
    """The outputs of a file that takes so many samples at a time; the last piece is filled up with its last sample."""
    import numpy as np

    batch = opened.batch or 1
    count = len(arrays[0]) if arrays[0].ndim else 0
    if count == 0 or any(array.ndim == 0 or len(array) != count for array in arrays):
        raise MeasureError("the inputs are empty or differ in their batch size.", where=where)
    outputs = []
    for start in range(0, count, batch):
        chosen = np.minimum(np.arange(start, start + batch), count - 1)
        outputs.append(opened.run([array[chosen] for array in arrays])[: count - start])
    return np.concatenate(outputs)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, "") or platform.processor() or platform.machine()
