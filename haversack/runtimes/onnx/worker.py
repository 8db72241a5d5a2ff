"""The process that measures ONNX files: one request as JSON on stdin, one answer as JSON on stdout.

It imports nothing but NumPy, ONNX Runtime, `turns.py` and the standard library, so that its memory is the runtime's
and not torch's, and so that a crash of the runtime takes nobody along. `process.py` starts it and reads it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

if __package__:
    from haversack.runtimes import turns
else:  # a process of its own, which holds no more of us than these two files
    sys.path.append(str(Path(__file__).parents[1]))
    import turns  # type: ignore[import-not-found,no-redef]

    sys.path.pop()  # folders there are called as packages are

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


def open_session(
    file: str | bytes,
    threads: int | None = None,
    *,
    thrifty: bool = False,
    optimized: str | None = None,
    plain: bool = False,
) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    """An ONNX Runtime session on the CPU for `file`; None threads means as many as the runtime likes.

    Threads of the pool stop spinning when a run ends (else one file's pool takes time from the other in alternation).
    `thrifty` switches the memory arena and its patterns off. `optimized` is where the graph as it runs is written;
    `plain` runs it node by node as it stands in the file.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.enable_cpu_mem_arena = options.enable_mem_pattern = not thrifty
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized is not None:
        options.optimized_model_filepath = optimized
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise turns.RefusedError(*_explained(error)) from error


def batch_one(session: Any, sizes: Mapping[str, int]) -> list[tuple[tuple[int, ...], type]]:  # noqa: ANN401
    """Shape and NumPy type of each input with a free batch dimension set to 1, and others to what `sizes` says."""
    named = {size for wanted in session.get_inputs() for size in wanted.shape if isinstance(size, str)}
    if unknown := sorted(sizes.keys() - named):
        told = ", ".join(sorted(named)) or "none"
        raise turns.RefusedError(f"its inputs have no free size '{unknown[0]}'.", f"name one of its own: {told}.")
    found = []
    for wanted in session.get_inputs():
        shape = [sizes.get(size, size) for size in wanted.shape]
        if shape and not isinstance(shape[0], int):
            shape[0] = 1
        if not all(isinstance(size, int) for size in shape):
            raise turns.RefusedError(
                f"the input '{wanted.name}' has the shape {list(wanted.shape)}: more than its batch size is free.",
                f"say how large it is (--size {_free(shape)}=64), or export it with fixed sizes.",
            )
        found.append((tuple(shape), number_type(wanted)))
    return found


def _free(shape: Sequence[object]) -> str:
    """The name of a shape's first free size."""
    return next((size for size in shape if isinstance(size, str)), "NAME")


def number_type(wanted: Any) -> type:  # noqa: ANN401
    """The NumPy type of one of a session's inputs; strings, bfloat16 and 8-bit floats are refused."""
    if wanted.type not in _TYPES:
        raise turns.RefusedError(
            f"the input '{wanted.name}' is a {wanted.type}, which cannot be fed.",
            f"export it with one of {', '.join(sorted(_TYPES))}.",
        )
    return _TYPES[wanted.type]


def explain_run(error: Exception) -> str:
    """What ONNX Runtime says against a run, without its codes."""
    return _plain(str(error))


def main() -> None:
    """Answer the request on stdin."""
    turns.answer({"memory": _memory, "time": _time, "beside": _beside, "operators": _operators})


def _memory(request: turns.Request) -> dict[str, int]:
    """Without the arena: it reserves in powers of two, so with it the figure jumps where the network does not."""

    def prepare() -> turns.Run:
        session = open_session(request["files"][0], request["threads"], thrifty=True)
        feed = _feed(session, request)
        return lambda: _run(session, feed)

    found: dict[str, int] = turns.grown_bytes(prepare)
    return found


def _time(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.in_turns(request, lambda file: _bound(file, request))
    return found


def _beside(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.beside_first(request, lambda file: _bound(file, request))
    return found


def _operators(request: turns.Request) -> dict[str, Any]:
    """The graph as the runtime rewrote it, saved at the path `optimized`."""
    open_session(request["files"][0], request["threads"], optimized=request["optimized"])
    return {}


def _bound(file: str, request: turns.Request) -> turns.Run:
    """A function that runs the file once on inputs bound beforehand: the runtime's own time, not Python's."""
    session = open_session(file, request["threads"])
    feed = _feed(session, request)
    _run(session, feed)
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _feed(session: Any, request: turns.Request) -> dict[str, Any]:  # noqa: ANN401
    """The given inputs in order, or random ones."""
    arrays = turns.given_arrays(request, [number_type(wanted) for wanted in session.get_inputs()])
    if arrays is None:
        arrays = turns.random_arrays(batch_one(session, request.get("sizes") or {}), request["seed"])
    return {wanted.name: array for wanted, array in zip(session.get_inputs(), arrays, strict=True)}


def _run(session: Any, feed: dict[str, Any]) -> None:  # noqa: ANN401
    try:
        session.run(None, feed)
    except Exception as error:
        raise turns.RefusedError(f"ONNX Runtime cannot run it: {explain_run(error)}") from error


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
