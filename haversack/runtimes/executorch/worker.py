"""The process that times .pte files, in ExecuTorch's Python runtime; it is asked like `onnx/worker.py`.

That runtime imports torch: a test harness. Its memory is not a device's and is not measured; its time is XNNPACK's.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

if __package__:
    from haversack.runtimes import turns
else:  # a process of its own, which holds no more of us than these two files
    sys.path.append(str(Path(__file__).parents[1]))
    import turns  # type: ignore[import-not-found,no-redef]

    sys.path.pop()  # folders there are called as packages are

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

_TYPES = {0: np.uint8, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.int64, 6: np.float32, 7: np.float64, 11: np.bool_}
"""NumPy's types by the numbers that torch gives its own (c10::ScalarType)."""


class LoadedMethod(NamedTuple):
    """The method `forward` of a file. It reads the program's bytes, which live as long as the program does."""

    program: Any
    forward: Any


def open_method(file: str | bytes, threads: int | None = None) -> LoadedMethod:
    """The method of `file`; `threads` holds for every file of this process: they share one pool."""
    try:
        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)  # noqa: SLF001 - there is no other way
        program = Runtime.get().load_program(file)
        return LoadedMethod(program, program.load_method("forward"))
    except Exception as error:
        raise turns.RefusedError(
            f"ExecuTorch cannot load it: {error}", "write it with the version of ExecuTorch that is installed."
        ) from error


def inputs_of(method: LoadedMethod) -> list[tuple[tuple[int, ...], type]]:
    """Shape and NumPy type of each input."""
    metadata = method.forward.metadata
    about = [metadata.input_tensor_meta(index) for index in range(metadata.num_inputs())]
    kinds = [_TYPES.get(each.dtype()) for each in about]
    if None in kinds:
        raise turns.RefusedError("it has an input that cannot be fed.", "export it with numbers as input.")
    return [(tuple(each.sizes()), kind) for each, kind in zip(about, kinds, strict=True) if kind is not None]


def execute(method: LoadedMethod, arrays: list[Any]) -> Any:  # noqa: ANN401 - a list of tensors
    """The outputs; ExecuTorch knows no strides, so the arrays lie as C has them."""
    try:
        return method.forward.execute([torch.from_numpy(np.ascontiguousarray(array)) for array in arrays])
    except Exception as error:
        raise turns.RefusedError(f"ExecuTorch cannot run it: {error}") from error


def main() -> None:
    """Answer the request on stdin."""
    turns.answer({"time": _time, "beside": _beside})


def _time(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.in_turns(request, lambda file: _bound(file, request))
    return found


def _beside(request: turns.Request) -> dict[str, Any]:
    found: dict[str, Any] = turns.beside_first(request, lambda file: _bound(file, request))
    return found


def _bound(file: str, request: turns.Request) -> turns.Run:
    """A function that runs the file once on tensors made beforehand."""
    method = open_method(file, request["threads"])
    wanted = inputs_of(method)
    arrays = turns.given_arrays(request, [kind for _, kind in wanted])
    if arrays is None:
        arrays = turns.random_arrays(wanted, request["seed"])
    execute(method, arrays)
    tensors = [torch.from_numpy(array) for array in arrays]
    return lambda: method.forward.execute(tensors)


if __name__ == "__main__":
    main()
