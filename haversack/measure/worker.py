"""The process that measures: one request as JSON on stdin, one answer as JSON on stdout.

It imports nothing but NumPy, ONNX Runtime, psutil (on Windows) and the standard library, so that its memory is the
runtime's and not torch's, and so that a crash of the runtime takes nobody along. `host.py` starts it and reads it.
"""

from __future__ import annotations

import gc
import json
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random
import onnxruntime

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
_ROUND_NS = 30_000_000
"""How long one file runs before it is the next one's turn: long against the clock, short against a neighbour's job."""
_LEAST_ROUNDS = 3


class RefusedError(Exception):
    """What is wrong with a file, and how to mend it; `position` says which file of the request."""

    def __init__(self, what: str, mend: str = "", position: int = 0) -> None:
        super().__init__(what)
        self.what, self.mend, self.position = what, mend, position


def open_session(
    file: str | bytes, threads: int | None = None, *, thrifty: bool = False, optimized: str | None = None
) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    """An ONNX Runtime session on the CPU for `file`; None threads means as many as the runtime likes.

    Threads of the pool stop spinning when a run ends (else one file's pool takes time from the other in alternation).
    `thrifty` switches the memory arena and its patterns off. `optimized` is where the graph as it runs is written.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not thrifty
    if optimized is not None:
        options.optimized_model_filepath = optimized
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RefusedError(*_explained(error)) from error


def batch_one(session: Any) -> list[tuple[str, tuple[int, ...], type]]:  # noqa: ANN401
    """Name, shape and NumPy type of each input with a free batch dimension set to 1."""
    found = []
    for wanted in session.get_inputs():
        shape = list(wanted.shape)
        if shape and not isinstance(shape[0], int):
            shape[0] = 1
        if not all(isinstance(size, int) for size in shape):
            raise RefusedError(
                f"the input '{wanted.name}' has the shape {list(wanted.shape)}: more than its batch size is free.",
                "export it with all sizes but the batch fixed, or give arrays to run it on.",
            )
        found.append((wanted.name, tuple(shape), number_type(wanted)))
    return found


def number_type(wanted: Any) -> type:  # noqa: ANN401
    """The NumPy type of one of a session's inputs; strings, bfloat16 and 8-bit floats are refused."""
    if wanted.type not in _TYPES:
        raise RefusedError(
            f"the input '{wanted.name}' is a {wanted.type}, which cannot be fed.",
            f"export it with one of {', '.join(sorted(_TYPES))}.",
        )
    return _TYPES[wanted.type]


def explain_run(error: Exception) -> str:
    """What ONNX Runtime says against a run, without its codes."""
    return _plain(str(error))


def main() -> None:
    """Answer the request on stdin; what a user can mend comes back as an answer too, not as a traceback."""
    request = json.load(sys.stdin)
    jobs: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "memory": _memory,
        "time": _time,
        "operators": _operators,
    }
    try:
        answer = jobs[request["job"]](request)
    except RefusedError as refused:
        answer = {"refused": refused.what, "mend": refused.mend, "position": refused.position}
    sys.stdout.write(json.dumps(answer) + "\n")


def _memory(request: dict[str, Any]) -> dict[str, Any]:
    """How far the resident memory grew at its peak while the file was loaded and run at batch 1.

    Without the arena: ONNX Runtime's arena reserves in powers of two, so with it the figure moves in jumps that the
    network does not make. What the imports took before is not counted.
    """
    rng = np.random.default_rng(request["seed"])
    before = _resident_bytes()
    session = open_session(request["files"][0], request["threads"], thrifty=True)
    feed = _feed(session, request, rng)
    for _ in range(3):
        _run(session, feed)
    return {"grown_bytes": _peak_bytes() - before}


def _time(request: dict[str, Any]) -> dict[str, Any]:
    """Median ms of each file in each round: `{"rounds": [[first, second, ...], ...]}`.

    The files take turns, forwards in one round and backwards in the next, so that a neighbour's load falls on all.
    """
    runs = []
    for position, file in enumerate(request["files"]):
        try:
            runs.append(_bound(file, request))
        except RefusedError as refused:
            raise RefusedError(refused.what, refused.mend, position) from refused
    budget_ns = int(request["seconds"] * 1e9)
    turn_ns = min(_ROUND_NS, budget_ns // (20 * len(runs)))
    counts = [max(1, turn_ns // max(1, _warm_up(run, turn_ns))) for run in runs]
    gc.disable()
    rounds: list[list[float]] = []
    end = time.perf_counter_ns() + budget_ns
    while len(rounds) < _LEAST_ROUNDS or time.perf_counter_ns() < end:
        order = range(len(runs)) if len(rounds) % 2 == 0 else reversed(range(len(runs)))
        found = {index: _median_ns(runs[index], counts[index]) / 1e6 for index in order}
        rounds.append([found[index] for index in range(len(runs))])
    return {"rounds": rounds, "runs_per_round": counts}


def _operators(request: dict[str, Any]) -> dict[str, Any]:
    """The graph as the runtime rewrote it, saved at the path `optimized`."""
    open_session(request["files"][0], request["threads"], optimized=request["optimized"])
    return {}


def _bound(file: str, request: dict[str, Any]) -> Callable[[], None]:
    """A function that runs the file once on inputs bound beforehand: the runtime's own time, not Python's."""
    session = open_session(file, request["threads"])
    feed = _feed(session, request, np.random.default_rng(request["seed"]))
    _run(session, feed)
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _feed(session: Any, request: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:  # noqa: ANN401
    """The given inputs in order, or random ones: normal numbers, any byte, and 0 for wider integers (an index)."""
    if request["inputs"] is None:
        return {name: _random(shape, kind, rng) for name, shape, kind in batch_one(session)}
    wanted = session.get_inputs()
    with np.load(request["inputs"]) as arrays:
        given = [arrays[f"arr_{index}"] for index in range(len(arrays.files))]
    if len(given) != len(wanted):
        raise RefusedError(f"it takes {len(wanted)} inputs, but {len(given)} arrays were given.")
    return {one.name: np.ascontiguousarray(array, number_type(one)) for one, array in zip(wanted, given, strict=True)}


def _random(shape: tuple[int, ...], kind: type, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if issubclass(kind, np.floating):
        return rng.standard_normal(shape, dtype=np.float32).astype(kind, copy=False)
    if kind in (np.int8, np.uint8):
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, kind, endpoint=True)
    return np.zeros(shape, kind)


def _run(session: Any, feed: dict[str, Any]) -> None:  # noqa: ANN401
    try:
        session.run(None, feed)
    except Exception as error:
        raise RefusedError(f"ONNX Runtime cannot run it: {explain_run(error)}") from error


def _warm_up(run: Callable[[], None], turn_ns: int) -> int:
    """How long one run takes, after the first runs have filled the caches."""
    end = time.perf_counter_ns() + turn_ns
    taken = [_median_ns(run, 1)]
    while time.perf_counter_ns() < end:
        taken.append(_median_ns(run, 1))
    return round(statistics.median(taken))


def _median_ns(run: Callable[[], None], count: int) -> float:
    clock = time.perf_counter_ns
    taken = []
    for _ in range(count):
        start = clock()
        run()
        taken.append(clock() - start)
    return statistics.median(taken)


def _peak_bytes() -> int:
    """The largest resident memory of this process so far.

    Linux: VmHWM and not ru_maxrss, for a child starts with the ru_maxrss of the parent that started it.
    """
    if Path("/proc/self/status").exists():
        return _status_bytes("VmHWM")
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _resident_bytes() -> int:
    if Path("/proc/self/status").exists():
        return _status_bytes("VmRSS")
    import psutil

    return int(psutil.Process().memory_info().rss)


def _status_bytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _explained(error: Exception) -> tuple[str, str]:
    """What is wrong with a file that did not load, and how to mend it."""
    text = _plain(str(error))
    if "protobuf parsing failed" in text.lower() or "No graph was found" in text:
        return "this is not an ONNX file, or it is cut short.", "give an ONNX model."
    if "external" in text.lower():
        return f"its external data cannot be read: {text}", "keep the data file beside the model."
    return (
        f"ONNX Runtime {onnxruntime.__version__} cannot load it: {text}",
        "export it for this version, or install a newer ONNX Runtime.",
    )


def _plain(text: str) -> str:
    """The first sentence of ONNX Runtime's message without codes, paths and C++ signatures."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:", "", text)
    text = re.sub(r"^/\S+:\d+ .*\) (?=[A-Z])", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines)[:300]


if __name__ == "__main__":
    main()
