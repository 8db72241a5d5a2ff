"""How long a file takes and how much memory it needs on this machine's CPU, in the runtime that its bytes are for.

Files are run in a fresh process (`process.py` starts a `worker.py`), so that no memory, thread or crash of ours
mixes with theirs.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import math
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import haversack
from haversack.disk import scratch_folder
from haversack.errors import MeasureError
from haversack.measurement import BenchReport, Figure
from haversack.runtimes import Arrays, Contents, File, FileFormat, Opened, Orders, rows
from haversack.runtimes.apart import open_apart
from haversack.runtimes.files import checked_runtime, checked_threads, name_of, runtime_of
from haversack.runtimes.process import TIMEOUT_S, ask

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MEMORY_PROCESSES = 3
_TAIL = 0.025
"""What a confidence interval of 95 % leaves out at each end."""


@dataclass(frozen=True)
class Timing:
    """How long one file takes at batch 1, and against the first file that it was timed with."""

    latency_ms: Figure
    """Median over the rounds of its best turn in each; `low` to `high` is the median's 95 % confidence interval."""
    ratio: Figure
    """Median over the rounds of (this file / the first file) within one round, with its interval likewise."""
    rounds: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    """Milliseconds and ratio of each round."""

    @classmethod
    def of(cls, rounds: Sequence[tuple[float, float]], runtime: str) -> Timing:
        """The figures of so many rounds."""
        times, ratios = zip(*rounds, strict=True)
        return cls(_spread(times, runtime), _spread(ratios, runtime), tuple(rounds))

    def joined(self, more: Timing) -> Timing:
        """The figures of the rounds of both."""
        return Timing.of((*self.rounds, *more.rounds), self.ratio.runtime)


def time_files(  # noqa: PLR0913 - all but the files have defaults
    files: Sequence[File],
    *,
    threads: int = 1,
    seconds: float = 3.0,
    seed: int = 0,
    inputs: Arrays | None = None,
    sizes: Mapping[str, int] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[Timing, ...]:
    """The latency of each file at batch 1, and its ratio to the first: both figures from one process, taking turns.

    `seconds` is what all files together are run for, save that there are three rounds at least. The inputs are random
    by the files' shapes unless `inputs` gives arrays, which then go to every file; `sizes` says what free sizes beside
    the batch are, by their names in the files. A file whose batch size is fixed is
    timed with that batch. Ratios within a round cancel what a neighbour on a shared machine takes; times cannot.
    """
    if not files:
        raise MeasureError("no files to time.")
    if not 0 < seconds < float("inf"):
        raise MeasureError(f"{seconds} seconds of timing make no sense.", mend="give more than zero seconds.")
    answer = ask("time", files, threads, timeout_s=timeout_s, seconds=seconds, seed=seed, inputs=inputs, sizes=sizes)
    return _timings(answer["rounds"], runtime_of(files[0]).name)


def peak_ram(
    file: File,
    threads: int = 1,
    *,
    inputs: Arrays | None = None,
    sizes: Mapping[str, int] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Figure:
    """Bytes of peak resident memory that loading and running the file at batch 1 add to an empty session's.

    The median of three fresh processes, `low` to `high` being the extremes. Loading counts (the weights are in memory
    twice for a moment), the runtime's code does not. It is read to about 0.2 MB, so the figure of a tiny network may
    be less than its weights; below zero it is reported as zero.
    """

    def grown() -> int:
        answer = ask("memory", [file], threads, timeout_s=timeout_s, inputs=inputs, sizes=sizes)
        return int(answer["grown_bytes"])

    checked_threads(threads)
    runtime = checked_runtime(file)
    empty = _empty_session_bytes(runtime.format, threads)
    grew = sorted(max(0, grown() - empty) for _ in range(_MEMORY_PROCESSES))
    return Figure(statistics.median(grew), "host", grew[0], grew[-1], runtime=runtime.name)


def load(  # noqa: PLR0913 - all but the file have defaults
    file: File,
    threads: int | None = None,
    *,
    runtime: str | None = None,
    orders: Orders | None = None,
    optimized: bool = True,
    apart: bool = False,
) -> Callable[..., Any]:
    """A function from batches of inputs to the output, or a tuple of them where there are several.

    It takes and gives torch tensors in torch's layout. Inputs are cast to the numbers that the file wants (never a
    fraction to an integer) or put on its grid; float16 outputs come back as float32. A file with a fixed batch size is
    run piece by piece. None threads means as many as the runtime likes. `runtime` names another one that runs such
    files; `orders` says how a file's inputs and outputs lie that has them in its own layout, or is guessed. Without
    `optimized` the file runs as it stands, node by node, where its runtime can be told to.

    It runs `apart`, in a process of its own, where the file is not known to be sound, and always in a runtime that
    believes every number in a file: one that crashes is a CrashError then.
    """
    if threads is not None:
        checked_threads(threads)
    where = name_of(file)
    chosen = checked_runtime(file, runtime)
    if apart or chosen.credulous:
        opened = open_apart(file, chosen, threads, orders, optimized=optimized)
    else:
        opened = chosen.open(file, threads, orders, optimized=optimized)

    def predict(*inputs: Tensor) -> Any:  # noqa: ANN401 - one tensor, or several
        import numpy as np
        import torch

        if len(inputs) != opened.inputs:
            raise MeasureError(f"it takes {opened.inputs} inputs, but {len(inputs)} were given.", where=where)
        real = outputs(opened, [tensor.detach().cpu().contiguous().numpy() for tensor in inputs], where)
        found = [torch.from_numpy(np.ascontiguousarray(each)) for each in real]
        floats = tuple(each.float() if each.dtype == torch.float16 else each for each in found)
        return floats[0] if len(floats) == 1 else floats

    return predict


def outputs(opened: Opened, inputs: Arrays, where: str) -> list[np.ndarray[Any, Any]]:
    """What the file makes of one batch: an array an output."""
    arrays = opened.prepare(inputs)
    return opened.run(arrays) if opened.batch is None else _in_pieces(opened, arrays, where)


def contents(file: File, threads: int) -> Contents:
    """What stands in the file, and what its runtime makes of it."""
    known = checked_runtime(file).format
    with scratch_folder() as folder:
        path = file if isinstance(file, Path) else folder / "model"
        if isinstance(file, bytes):
            path.write_bytes(file)
        return known.contents(path, threads)


def bench(
    path: Path,
    threads: int = 1,
    seconds: float = 3.0,
    against: Path | None = None,
    sizes: Mapping[str, int] | None = None,
) -> BenchReport:
    """Size, peak memory, latency and operators of the file at `path`, and its latency over `against`'s.

    `sizes` says what free sizes are, beside the batch.
    """
    files = [path] if against is None else [against, path]
    runtimes = [checked_runtime(file) for file in files]
    inside = contents(path, threads)
    timing = time_files(files, threads=threads, seconds=seconds, sizes=sizes)[-1]
    return BenchReport(
        file=str(path),
        runtime=runtimes[-1].name,
        against=str(against) if against else None,
        threads=threads,
        disk_bytes=inside.disk_bytes,
        ram_bytes=peak_ram(path, threads, sizes=sizes),
        latency_ms=timing.latency_ms,
        ratio=timing.ratio if against else None,
        operators=inside.operators,
        operators_as_run=inside.as_run,
        integer_operators=inside.integer,
        warnings=inside.warnings,
        machine=machine(),
        versions=versions(),
    )


def machine() -> str:
    """This machine's processor, cores and operating system on one line."""
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """The versions of what a figure depends on; read, not imported."""
    known = {"haversack": haversack.__version__, "python": platform.python_version()}
    packages = (package.replace("_", "-") for row in rows() for package in row.packages)
    for name in dict.fromkeys(("torch", *packages, "numpy")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known[name] = importlib.metadata.version(name)
    return known


def _timings(rounds: Sequence[Sequence[float]], runtime: str) -> tuple[Timing, ...]:
    """The figures of each file from its time (ms) in every round."""
    firsts = [times[0] for times in rounds]
    return tuple(
        Timing.of([(ours, ours / first) for ours, first in zip(times, firsts, strict=True)], runtime)
        for times in zip(*rounds, strict=True)
    )


def _spread(values: Sequence[float], runtime: str) -> Figure:
    """The median with its 95 % confidence interval."""
    low, high = median_interval(values)
    return Figure(statistics.median(values), "host", low, high, runtime=runtime)


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which two of the values the median of their distribution lies, with 95 % confidence.

    By order statistics, whatever the distribution: of n independent values so many are below the median as a fair coin
    falls heads. Of fewer than six values it is the extremes, and the confidence less (75 % of three).
    """
    ordered, count = sorted(values), len(values)
    tail, rank = 2.0**-count, 0
    while tail <= _TAIL:
        rank += 1
        tail += math.comb(count, rank) / 2**count
    outside = max(0, rank - 1)
    return ordered[outside], ordered[count - 1 - outside]


@functools.lru_cache
def _empty_session_bytes(known: FileFormat, threads: int) -> int:
    """What a session adds that does next to nothing: the median of three fresh processes."""
    file = known.empty()
    grown = [int(ask("memory", [file], threads)["grown_bytes"]) for _ in range(_MEMORY_PROCESSES)]
    return int(statistics.median(grown))


def _in_pieces(opened: Opened, arrays: Arrays, where: str) -> list[np.ndarray[Any, Any]]:
    """The outputs of a file that takes so many samples at a time; the last piece is filled up with its last sample."""
    import numpy as np

    batch = opened.batch or 1
    count = len(arrays[0]) if arrays[0].ndim else 0
    if count == 0 or any(array.ndim == 0 or len(array) != count for array in arrays):
        raise MeasureError("the inputs are empty or differ in their batch size.", where=where)
    pieces = []
    for start in range(0, count, batch):
        chosen = np.minimum(np.arange(start, start + batch), count - 1)
        pieces.append([each[: count - start] for each in opened.run([array[chosen] for array in arrays])])
    return [np.concatenate(each) for each in zip(*pieces, strict=True)]


def processor() -> str:
    """This machine's processor, as it calls itself."""
    facts = _facts()
    name = next((value for key, value in facts.items() if key.startswith(("model name", "Model"))), "")
    return name or platform.processor() or platform.machine()


def processor_in_full() -> str:
    """The processor with what sets it apart from others that call themselves so, as those of rented machines do."""
    facts = _facts()
    numbers = [f"{name} {facts[name]}" for name in ("cpu family", "model", "stepping") if name in facts]
    return ", ".join([processor(), *numbers])


def _facts() -> dict[str, str]:
    """What Linux says of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts
