"""Storage: which weights take 4 bits and how two share a byte, and which take 16."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from haversack.graph.integer import IntegerGraph, Operation, Value
from haversack.progress import note

Array = np.ndarray[Any, Any]

_READ_4_BITS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_LEAST_HALVED = 128
"""Numbers whose saved halves pay for a DEQUANTIZE."""
_SAMPLE = 1024


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
            if value and not _reads_4_bits(operation, index, values, micro=micro):
                yield value.name, operation.path or operation.kind


def _reads_4_bits(operation: Operation, index: int, values: Sequence[Value | None], *, micro: bool) -> bool:
    """Whether the kernel unpacks this input: tried with ai-edge-litert 2.3 and tflite-micro of October 2026."""
    data, value = values[0], values[index]
    if operation.kind == "DEQUANTIZE":
        return not micro
    if operation.kind not in _READ_4_BITS or index != 1 or data is None or data.dtype != "int8":
        return False
    per_channel = value is not None and value.grid is not None and value.grid.axis is not None
    return not (micro and per_channel and operation.kind == "FULLY_CONNECTED")


def tell_of_halves(graph: IntegerGraph) -> None:
    """Says where float16 saves nothing: tflite-micro has only float32, so that is how such weights are stored."""
    real = [value for value in graph.constants() if _is_large(value)]
    if real and all(_half(value) is not None for value in real):
        note("tflite-micro has no float16, so each weight takes four bytes in the .tflite file.")


def with_halves(graph: IntegerGraph) -> IntegerGraph:
    """The graph in which real weights that float16 holds exactly are stored so, and made float32 when it is loaded."""
    halves = {value.name: half for value in graph.constants() if (half := _half(value)) is not None}
    values = {name: replace(value, data=None) if name in halves else value for name, value in graph.values.items()}
    values |= {half.name: half for half in halves.values()}
    paths = {name: each.path for each in reversed(graph.operations) for name in each.inputs}
    widened = (Operation("DEQUANTIZE", (half.name,), (name,), {}, paths[name]) for name, half in halves.items())
    return replace(graph, values=values, operations=(*widened, *graph.operations))


def _half(value: Value) -> Value | None:
    """The constant as float16; None where that is not exact, or saves nothing."""
    if value.data is None or not _is_large(value):
        return None
    # Most weights fail on the first few numbers, and need not be gone through.
    for numbers in (value.data.flat[:_SAMPLE], value.data):
        with np.errstate(over="ignore"):
            narrow = numbers.astype(np.float16)
        if not np.array_equal(narrow, numbers):
            return None
    return Value(f"{value.name}:half", value.shape, "float16", data=narrow)


def _is_large(value: Value) -> bool:
    """Whether these are so many real numbers that fewer bytes for each would pay."""
    return value.dtype == "float32" and math.prod(value.shape) >= _LEAST_HALVED
