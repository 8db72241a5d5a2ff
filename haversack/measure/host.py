"""How long an ONNX file takes and how much memory it needs on this machine, in ONNX Runtime, on its CPU.

Files are run in a fresh process (`child.py` starts it, `worker.py` is it), so that no memory, thread or crash of ours
mixes with theirs.
"""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import haversack
from haversack.errors import MeasureError
from haversack.measure.child import TIMEOUT_S, Arrays, File, ask, checked_path, checked_threads, name_of
from haversack.measurement import BenchReport, Figure

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_MEMORY_PROCESSES = 3
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_INTEGER_OPERATORS = frozenset(
    (
        *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QAttention"),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QEmbedLayerNormalization"),
    )
)


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
    return _timings(answer["rounds"])


def peak_ram(file: File, threads: int = 1, *, inputs: Arrays | None = None, timeout_s: float = TIMEOUT_S) -> Figure:
    """Bytes of peak resident memory that loading and running the file at batch 1 add to an empty session's.

    The median of three fresh processes, `low` to `high` being the extremes. Loading counts (the weights are in memory
    twice for a moment), the runtime's code does not. It is read to about 0.2 MB, so the figure of a tiny network may
    be less than its weights; below zero it is reported as zero.
    """

    def grown() -> int:
        return int(ask("memory", [file], threads, timeout_s=timeout_s, inputs=inputs)["grown_bytes"])

    checked_threads(threads)
    empty = _empty_session_bytes(threads)
    found = sorted(max(0, grown() - empty) for _ in range(_MEMORY_PROCESSES))
    return Figure(statistics.median(found), "host", found[0], found[-1])


def load(file: File, threads: int | None = None) -> Callable[..., Tensor]:
    """A function from batches of inputs to the outputs, run in ONNX Runtime within this process.

    It takes and gives torch tensors: inputs are cast to the numbers that the file wants (never a fraction to an
    integer), float16 outputs come back as float32. A file with a fixed batch size is run piece by piece. None threads
    means as many as the runtime likes.
    """
    from haversack.measure import worker

    if threads is not None:
        checked_threads(threads)
    where = name_of(file)
    try:
        session = worker.open_session(file if isinstance(file, bytes) else str(checked_path(file)), threads)
        kinds = [worker.number_type(wanted) for wanted in session.get_inputs()]
    except worker.RefusedError as refused:
        raise MeasureError(refused.what, where=where, mend=refused.mend) from refused
    if len(session.get_outputs()) != 1:
        raise MeasureError(f"it has {len(session.get_outputs())} outputs.", where=where, mend="export exactly one.")
    shapes = [wanted.shape for wanted in session.get_inputs()]
    batch = next((shape[0] for shape in shapes if shape and isinstance(shape[0], int)), None)

    def run(arrays: Arrays) -> np.ndarray[Any, Any]:
        feed = {wanted.name: array for wanted, array in zip(session.get_inputs(), arrays, strict=True)}
        try:
            output: np.ndarray[Any, Any] = session.run(None, feed)[0]
        except Exception as error:
            raise MeasureError(f"ONNX Runtime cannot run it: {worker.explain_run(error)}", where=where) from error
        return output

    def predict(*inputs: Tensor) -> Tensor:
        import torch

        if len(inputs) != len(kinds):
            raise MeasureError(f"it takes {len(kinds)} inputs, but {len(inputs)} were given.", where=where)
        arrays = [_array(tensor, kind, where) for tensor, kind in zip(inputs, kinds, strict=True)]
        output = torch.from_numpy(run(arrays) if batch is None else _in_pieces(run, arrays, batch, where))
        return output.float() if output.dtype == torch.float16 else output

    return predict


def bench(path: Path, threads: int = 1, seconds: float = 3.0, against: Path | None = None) -> BenchReport:
    """Size, peak memory, latency and operators of the ONNX file at `path`, and its latency over `against`'s."""
    files = [path] if against is None else [against, path]
    for file in files:
        checked_path(file)
    operators, disk_bytes = _read(path)
    timing = time_files(files, threads=threads, seconds=seconds)[-1]
    as_run = _operators_as_run(path, threads)
    integer = sum(count for name, count in as_run.items() if _on_integers(name))
    return BenchReport(
        file=str(path),
        against=str(against) if against else None,
        threads=threads,
        disk_bytes=disk_bytes,
        ram_bytes=peak_ram(path, threads),
        latency_ms=timing.latency_ms,
        ratio=timing.ratio if against else None,
        operators=operators,
        operators_as_run=as_run,
        integer_operators=integer,
        warnings=tuple(_warnings(operators, as_run, integer)),
        machine=machine(),
        versions=versions(),
    )


def machine() -> str:
    """This machine's processor, cores and operating system on one line."""
    return f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """The versions of what a figure depends on; read, not imported."""
    found = {"haversack": haversack.__version__, "python": platform.python_version()}
    for name in ("torch", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _timings(rounds: Sequence[Sequence[float]]) -> tuple[Timing, ...]:
    """The figures of each file from its medians (ms) in every round."""
    firsts = [found[0] for found in rounds]
    timings = []
    for times in zip(*rounds, strict=True):
        ratios = [ours / first for ours, first in zip(times, firsts, strict=True)]
        timings.append(Timing(_spread(times), _spread(ratios)))
    return tuple(timings)


def _spread(values: Sequence[float]) -> Figure:
    """The median with the 10th and 90th percentile. These are interpolated: rounding must not push them past it."""
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    median = statistics.median(values)
    return Figure(median, "host", min(deciles[0], median), max(deciles[-1], median))


@functools.lru_cache
def _empty_session_bytes(threads: int) -> int:
    """What a session adds that only copies four numbers: the median of three fresh processes."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    found = [int(ask("memory", [file], threads)["grown_bytes"]) for _ in range(_MEMORY_PROCESSES)]
    return int(statistics.median(found))


def _in_pieces(
    run: Callable[[Arrays], np.ndarray[Any, Any]], arrays: Arrays, batch: int, where: str
) -> np.ndarray[Any, Any]:
    """The outputs of a file that takes `batch` samples at a time; the last piece is filled up with its last sample."""
    import numpy as np

    count = len(arrays[0]) if arrays[0].ndim else 0
    if count == 0 or any(array.ndim == 0 or len(array) != count for array in arrays):
        raise MeasureError("the inputs are empty or differ in their batch size.", where=where)
    outputs = []
    for start in range(0, count, batch):
        chosen = np.minimum(np.arange(start, start + batch), count - 1)
        outputs.append(run([array[chosen] for array in arrays])[: count - start])
    return np.concatenate(outputs)


def _array(tensor: Tensor, kind: type, where: str) -> np.ndarray[Any, Any]:
    import numpy as np

    if tensor.is_floating_point() and not issubclass(kind, np.floating):
        raise MeasureError(
            f"it wants {np.dtype(kind)} inputs, but was given {tensor.dtype}.",
            where=where,
            mend="quantize the inputs as the file's input grid says, or export a file with float inputs.",
        )
    array: np.ndarray[Any, Any] = tensor.detach().cpu().contiguous().numpy()
    return array.astype(kind, copy=False)


def _read(path: Path) -> tuple[dict[str, int], int]:
    """How often each operator stands in the file, and its bytes with those of its external data."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MeasureError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
    except Exception as error:
        raise MeasureError("this is not an ONNX file, or it is cut short.", where=str(path)) from error
    places = (
        entry.value for tensor in _tensors(model.graph) for entry in tensor.external_data if entry.key == "location"
    )
    parts = {path.parent / place for place in places}
    lost = sorted(part.name for part in parts if not part.is_file())
    if lost:
        raise MeasureError(
            f"its external data {', '.join(lost)} is missing.", where=str(path), mend="put it beside the model."
        )
    return _counted(model.graph), sum(part.stat().st_size for part in (path, *parts))


def _tensors(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - onnx.GraphProto
    """Every stored tensor of the graph and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _counted(graph: Any) -> dict[str, int]:  # noqa: ANN401 - onnx.GraphProto
    """Operators by name, the most frequent first; those of subgraphs are included."""
    counts = Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                counts.update(_counted(inner))
    return dict(counts.most_common())


def _operators_as_run(path: Path, threads: int) -> dict[str, int]:
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        ask("operators", [path], threads, optimized=str(optimized))
        return _counted(onnx.load(optimized, load_external_data=False).graph)


def _on_integers(operator: str) -> bool:
    return operator.startswith("QLinear") or operator in _INTEGER_OPERATORS


def _warnings(operators: Mapping[str, int], as_run: Mapping[str, int], integer: int) -> Iterator[str]:
    """What makes a quantized file slower than it could be."""
    if not any(name in _CONVERSIONS or _on_integers(name) for name in operators):
        return
    if integer == 0:
        yield "the file is quantized, but the runtime computes nothing in integers: it only gets smaller."
    left = sorted(name for name in ("Conv", "Gemm", "MatMul", "FusedConv", "FusedMatMul") if as_run.get(name))
    if integer and left:
        yield f"the runtime still computes in float: {', '.join(f'{as_run[name]} {name}' for name in left)}."


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(names, "") or platform.processor() or platform.machine()
