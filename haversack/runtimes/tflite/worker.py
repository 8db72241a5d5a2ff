"""The process that measures .tflite files, in LiteRT with XNNPACK; it is asked like `onnx/worker.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

if __package__:
    from haversack.runtimes import turns
else:  # a process of its own, which holds no more of us than these two files
    sys.path.append(str(Path(__file__).parents[1]))
    import turns  # type: ignore[import-not-found,no-redef]

    sys.path.pop()  # folders there are called as packages are


def open_interpreter(file: str | bytes, threads: int, *, plain: bool = False) -> Any:  # noqa: ANN401 - no types
    """An interpreter on the CPU for `file`, with its tensors allocated.

    XNNPACK computes what it knows; where it is to be `plain`, reference kernels compute everything.
    """
    kernels = OpResolverType.BUILTIN_REF if plain else OpResolverType.AUTO
    source = {"model_content": file} if isinstance(file, bytes) else {"model_path": file}
    try:
        interpreter = Interpreter(**source, num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    except Exception as error:
        raise turns.RefusedError(*_explained(error)) from error
    return interpreter


def number_type(wanted: dict[str, Any]) -> type:
    """The NumPy type of one of the inputs; strings are refused."""
    kind: type = wanted["dtype"]
    if not issubclass(kind, (np.floating, np.integer, np.bool_)):
        raise turns.RefusedError(
            f"the input '{wanted['name']}' is {kind.__name__}, which cannot be fed.", "export it with numbers as input."
        )
    return kind


def feed(interpreter: Any, inputs: list[dict[str, Any]], arrays: list[Any]) -> None:  # noqa: ANN401
    """Hands the arrays to the inputs, in order."""
    for wanted, array in zip(inputs, arrays, strict=True):
        try:
            interpreter.set_tensor(wanted["index"], array)
        except ValueError as error:
            raise turns.RefusedError(f"LiteRT cannot run it: {plain(error)}") from error


def invoke(interpreter: Any) -> None:  # noqa: ANN401
    """Runs the file once on what it was fed."""
    try:
        interpreter.invoke()
    except Exception as error:
        raise turns.RefusedError(f"LiteRT cannot run it: {plain(error)}") from error


def plain(error: Exception) -> str:
    """What LiteRT says, on one line and without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line.partition(".cc:")[2].partition(" ")[2] or line for line in lines)[:300]


def main() -> None:
    """Answer the request on stdin."""
    turns.answer({"memory": _memory, "time": _time, "beside": _beside, "operators": _operators})


def _memory(request: turns.Request) -> dict[str, int]:
    found: dict[str, int] = turns.grown_bytes(lambda: _bound(request["files"][0], request))
    return found


def _time(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.in_turns(request, lambda file: _bound(file, request))
    return found


def _beside(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.beside_first(request, lambda file: _bound(file, request))
    return found


def _operators(request: turns.Request) -> dict[str, Any]:
    """Name, inputs, outputs and whether it computes integers of every node: the file's own, then the delegates."""
    interpreter = open_interpreter(request["files"][0], request["threads"])
    grids = {
        each["index"] for each in interpreter.get_tensor_details() if len(each["quantization_parameters"]["scales"])
    }
    nodes = []
    for node in interpreter._get_ops_details():  # noqa: SLF001 - the one way to see what the delegate took
        inputs, outputs = ([int(index) for index in node[key]] for key in ("inputs", "outputs"))
        # A layer of integers that rounds what it reads as it comes gives real numbers.
        weights = inputs[1:2] if node["op_name"] == "FULLY_CONNECTED" else []
        nodes.append((node["op_name"], inputs, outputs, any(index in grids for index in (*outputs, *weights))))
    return {"nodes": nodes}


def _bound(file: str, request: turns.Request) -> turns.Run:
    """A function that runs the file once on inputs set beforehand: the runtime's own time, not Python's."""
    interpreter = open_interpreter(file, request["threads"])
    wanted = interpreter.get_input_details()
    arrays = turns.given_arrays(request, [number_type(each) for each in wanted])
    if arrays is None:
        shapes = [(_fixed(each), number_type(each)) for each in wanted]
        arrays = turns.random_arrays(shapes, request["seed"])
    feed(interpreter, wanted, arrays)
    invoke(interpreter)
    run: turns.Run = interpreter.invoke
    return run


def _fixed(wanted: dict[str, Any]) -> tuple[int, ...]:
    """The input's shape. TFLite writes 1 where a size is free: right for a batch, and for nothing else."""
    if (wanted["shape_signature"][1:] < 0).any():
        raise turns.RefusedError(
            f"the input '{wanted['name']}' has the shape {wanted['shape_signature'].tolist()}: more than its batch "
            "size is free.",
            "export it with all sizes but the batch fixed.",
        )
    return tuple(int(size) for size in wanted["shape"])


def _explained(error: Exception) -> tuple[str, str]:
    """What is wrong with a file that did not load, and how to mend it."""
    text = plain(error)
    if "valid Flatbuffer" in text or "schema version" in text or "must be specified" in text:
        return "this is not a .tflite file, or it is cut short.", "give a .tflite model."
    return f"LiteRT cannot load it: {text}", "write it for this version, or install a newer ai-edge-litert."


if __name__ == "__main__":
    main()
