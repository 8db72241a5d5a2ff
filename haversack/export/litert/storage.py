"""Storage: which weights take 4 bits, and how two share a byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from haversack.graph.integer import IntegerGraph, Operation, Value
from haversack.progress import note

Array = np.ndarray[Any, Any]

_READ_4_BITS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


def packed(integers: Array) -> Array:
    """The integers -8..7 two a byte, the first in the low half; an odd last one stands alone."""
    halves = np.zeros(integers.size + integers.size % 2, np.uint8)
    halves[: integers.size] = integers.reshape(-1) & 0xF
    return np.asarray(halves[0::2] | halves[1::2] << 4)


def stored_in_4_bits(graph: IntegerGraph, *, micro: bool) -> frozenset[str]:
    """The constants of at most 4 bits that everything which reads them can read packed; says which others there are."""
    narrow = {value.name for value in graph.constants() if value.grid and value.grid.bits <= 4}
    refused = {name: path for name, path in _unpacked(graph, micro=micro) if name in narrow}
    if refused:
        runtime = "tflite-micro" if micro else "LiteRT"
        places = ", ".join(sorted(set(refused.values())))
        note(f"{runtime} cannot read these weights in 4 bits, so each takes a byte in the .tflite file: {places}.")
    return frozenset(narrow - refused.keys())


def _unpacked(graph: IntegerGraph, *, micro: bool) -> Iterator[tuple[str, str]]:
    """Constants that are read a byte each, with the layers that do."""
    for operation in graph.operations:
        values = [graph.values.get(name) for name in operation.inputs]
        for index, value in enumerate(values):
            if value and not (index == 1 and _reads_4_bits(operation, values[0], value, micro=micro)):
                yield value.name, operation.path or operation.kind


def _reads_4_bits(operation: Operation, data: Value | None, weight: Value, *, micro: bool) -> bool:
    """Whether the kernel unpacks the weight: tried with ai-edge-litert 2.3 and tflite-micro of October 2026."""
    if operation.kind not in _READ_4_BITS or data is None or data.dtype != "int8":
        return False
    per_channel = weight.grid is not None and weight.grid.axis is not None
    return not (micro and per_channel and operation.kind == "FULLY_CONNECTED")
