"""Storage: which weights take 4 bits, and how two share a byte."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from haversack.graph.integer import IntegerGraph, Operation, Value
from haversack.progress import say

Array = np.ndarray[Any, Any]

_READ_4_BITS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})


def packed(integers: Array) -> Array:
    """The integers -8..7 two a byte, the first in the low half; an odd last one stands alone."""
    halves = np.append(integers.reshape(-1), np.zeros(integers.size % 2)).astype(np.uint8) & 0xF
    return np.asarray(halves[0::2] | halves[1::2] << 4)


def stored_in_4_bits(graph: IntegerGraph) -> frozenset[str]:
    """The constants of at most 4 bits that everything which reads them can read packed; says which others there are."""
    narrow = {value.name for value in graph.constants() if value.grid and value.grid.bits <= 4}
    refused = {name: path for name, path in _unpacked(graph) if name in narrow}
    if refused:
        places = ", ".join(sorted(set(refused.values())))
        say(f"No runtime reads these weights in 4 bits, so each takes a byte in the .tflite file: {places}.")
    return frozenset(narrow - refused.keys())


def _unpacked(graph: IntegerGraph) -> Iterator[tuple[str, str]]:
    """Constants that are read a byte each, with the layers that do."""
    for operation in graph.operations:
        for index, name in enumerate(operation.inputs):
            if name and not (index == 1 and _reads_4_bits(operation, graph.values[operation.inputs[0]])):
                yield name, operation.path or operation.kind


def _reads_4_bits(operation: Operation, data: Value) -> bool:
    return operation.kind in _READ_4_BITS and data.dtype == "int8"
