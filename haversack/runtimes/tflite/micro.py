"""TFLite files in the interpreter of LiteRT for Microcontrollers (tflite-micro), with its reference kernels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haversack.errors import MeasureError
from haversack.runtimes import Arrays, File, Opened, Orders, process
from haversack.runtimes.files import name_of
from haversack.runtimes.ports import opened, ports_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_LARGEST_ARENA_BYTES = 1 << 30


def open_file(
    file: File,
    _threads: int | None,
    orders: Orders | None = None,
    *,
    optimized: bool = True,  # noqa: ARG001 - it always runs what stands in the file
) -> Opened:
    """The file in tflite-micro, one sample after the other on one thread."""
    content = file.read_bytes() if isinstance(file, Path) else file
    interpreter = _interpreter(content, name_of(file))
    outputs = _all(interpreter.get_output_details)

    def run(arrays: Arrays) -> list[Array]:
        try:
            for index, array in enumerate(arrays):
                interpreter.set_input(array, index)
            interpreter.invoke()
        except Exception as error:
            raise MeasureError(f"tflite-micro cannot run it: {error}", where=name_of(file)) from error
        return [interpreter.get_output(index) for index in range(len(outputs))]

    taken, given = ports_of(_all(interpreter.get_input_details), outputs, orders)
    return opened(taken, given, run, name_of(file))


def _interpreter(content: bytes, where: str) -> Any:  # noqa: ANN401 - tflite-micro has no types
    """An interpreter with an arena that is large enough: it is doubled until the file fits."""
    from tflite_micro import runtime

    arena_bytes = max(1 << 20, 10 * len(content))
    while True:
        with process.caught() as place:
            try:
                return runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
            except Exception as error:
                said = process.lines(place) or [str(error)]
                arena_bytes *= 2
                if arena_bytes > _LARGEST_ARENA_BYTES or any("Didn't find op" in line for line in said):
                    raise MeasureError(f"tflite-micro cannot load it: {said[0]}", where=where) from error


def _all(described: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """What the interpreter tells of all inputs or outputs: not how many, but it refuses to describe one too many."""
    found: list[dict[str, Any]] = []
    while True:
        try:
            found.append(described(len(found)))
        except Exception:  # noqa: BLE001 - whatever it raises
            return found
