"""Passes: an integer graph in the form that LiteRT runs fastest, or at all; they know nothing of its files.

Weights of few bits share a byte. Integer convolutions without a bias get zeros: LiteRT 2.3 crashes on an int8
DEPTHWISE_CONV_2D without one (in XNNPACK) and refuses an int16 CONV_2D. Inputs and outputs are integers or real
numbers. Slices that keep every second row and column become pools of one number each, which pick the same numbers:
TFLite slices one element at a time, XNNPACK does not slice with a stride at all; a pool is vectorized and its file
smaller. ResNet-20 with two such shortcuts runs 10 % faster for it. Tensors are named after the user's layers.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from haversack.grid import Grid
from haversack.integer import KINDS, Array, IntegerGraph, Operation, Value
from haversack.progress import note

_READ_4_BITS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
_LEAST_HALVED = 128
"""Numbers whose saved halves pay for a DEQUANTIZE."""
_SAMPLE = 1024
_ROLES = frozenset({"weight", "bias"})


def packed(integers: Array) -> Array:
    """The integers -8..7 two a byte, the first in the low half; an odd last one stands alone."""
    halves = np.zeros(integers.size + integers.size % 2, np.uint8)
    halves[: integers.size] = integers.reshape(-1) & 0xF
    return np.asarray(halves[0::2] | halves[1::2] << 4)


def unpacked(data: Array, count: int) -> Array:
    """So many integers -8..7 out of bytes that hold two each."""
    halves = np.stack([data.astype(np.int8) << 4 >> 4, data.view(np.int8) >> 4], axis=1)
    return np.asarray(halves.reshape(-1)[:count])


def stored_in_4_bits(graph: IntegerGraph, *, micro: bool) -> frozenset[str]:
    """The constants of at most 4 bits that all that reads them can read packed, and rows that are taken of such.

    It says which others there are.
    """
    narrow = {value.name for value in graph.constants() if value.grid and value.grid.bits <= 4}
    refused = {name: path for name, path in _unpacked(graph, micro=micro) if name in narrow}
    if refused:
        runtime = "tflite-micro" if micro else "LiteRT"
        places = ", ".join(sorted(set(refused.values())))
        note(f"{runtime} cannot read these weights in 4 bits, so each takes a byte in the .tflite file: {places}.")
    kept = narrow - refused.keys()
    rows = (each.outputs[0] for each in graph.operations if each.kind == "GATHER" and each.inputs[0] in kept)
    return frozenset((*kept, *rows))


def _unpacked(graph: IntegerGraph, *, micro: bool) -> Iterator[tuple[str, str]]:
    """Constants that are read a byte each, with the layers that do."""
    widened = {name for each in graph.operations if each.kind == "DEQUANTIZE" for name in each.inputs}
    read = Counter(name for each in graph.operations for name in each.inputs) + Counter(graph.outputs)
    for operation in graph.operations:
        values = [graph.values.get(name) for name in operation.inputs]
        if (
            operation.kind == "GATHER"
            and not micro
            and operation.outputs[0] in widened
            and read[operation.outputs[0]] == 1
        ):
            continue
        for index, value in enumerate(values):
            if value and not _reads_4_bits(operation, index, values, micro=micro):
                yield value.name, operation.path or operation.kind


def _reads_4_bits(operation: Operation, index: int, values: Sequence[Value | None], *, micro: bool) -> bool:
    """Whether the kernel unpacks this input: tried with ai-edge-litert 2.3 and tflite-micro of October 2026."""
    data, value = values[0], values[index]
    if operation.kind == "DEQUANTIZE":
        return not micro
    types = ("int8", "float32") if operation.kind == "FULLY_CONNECTED" else ("int8",)
    if operation.kind not in _READ_4_BITS or index != 1 or data is None or data.dtype not in types:
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


def with_float_ports(graph: IntegerGraph) -> IntegerGraph:
    """The graph between float32 inputs and outputs, which keep the names that integer ones had."""
    values, inner = dict(graph.values), {}
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        if values[name].grid is not None:
            inner[name] = f"{name}:integer"
            values[inner[name]] = replace(values[name], name=inner[name])
            values[name] = Value(name, values[name].shape, "float32")
    begin = (Operation("QUANTIZE", (name,), (inner[name],), path=name) for name in graph.inputs if name in inner)
    end = (Operation("DEQUANTIZE", (inner[name],), (name,), path=name) for name in graph.outputs if name in inner)
    middle = (operation.renamed(inner) for operation in graph.operations)
    return replace(graph, values=values, operations=(*begin, *middle, *end))


def with_integer_ports(graph: IntegerGraph) -> IntegerGraph:
    """The graph without a QUANTIZE that alone reads an input, or a DEQUANTIZE whose result is only an output.

    The integers behind it become the input or output, under its name.
    """
    conversions = {**_quantized_inputs(graph), **_dequantized_outputs(graph)}
    names = {integer: port for port, (_, integer) in conversions.items()}
    if not names:
        return graph
    values = {name: value for name, value in graph.values.items() if name not in names and name not in conversions}
    values.update({port: replace(graph.values[integer], name=port) for integer, port in names.items()})
    removed = {id(operation) for operation, _ in conversions.values()}
    operations = (operation.renamed(names) for operation in graph.operations if id(operation) not in removed)
    return replace(graph, values=values, operations=tuple(operations))


Conversions = Mapping[str, tuple[Operation, str]]


def _quantized_inputs(graph: IntegerGraph) -> Conversions:
    """For each input that only a QUANTIZE reads, that operation and the integers it makes."""
    reads = Counter(name for operation in graph.operations for name in operation.inputs)
    reads.update(graph.outputs)
    return {
        operation.inputs[0]: (operation, operation.outputs[0])
        for operation in graph.operations
        if operation.kind == "QUANTIZE"
        and operation.inputs[0] in graph.inputs
        and graph.values[operation.inputs[0]].grid is None
        and reads[operation.inputs[0]] == 1
        and operation.outputs[0] not in graph.outputs
    }


def _dequantized_outputs(graph: IntegerGraph) -> Conversions:
    """For each output that only a DEQUANTIZE makes and nobody else reads, that operation and the integers it reads."""
    read = {name for operation in graph.operations for name in operation.inputs}
    computed = {name for operation in graph.operations if operation.kind != "QUANTIZE" for name in operation.outputs}
    found = {
        operation.inputs[0]: operation
        for operation in graph.operations
        if operation.kind == "DEQUANTIZE" and operation.outputs[0] in graph.outputs
    }
    return {
        operation.outputs[0]: (operation, integer)
        for integer, operation in found.items()
        if operation.outputs[0] not in read and integer in computed and integer not in graph.outputs
    }


_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D"})


def with_biases(graph: IntegerGraph) -> IntegerGraph:
    """The graph in which every convolution on integers has a bias."""
    missing = {index: _missing_bias(graph, operation) for index, operation in enumerate(graph.operations)}
    found = {index: zeros for index, zeros in missing.items() if zeros is not None}
    operations = tuple(
        replace(operation, inputs=(*operation.inputs[:2], found[index].name)) if index in found else operation
        for index, operation in enumerate(graph.operations)
    )
    return replace(
        graph, values={**graph.values, **{each.name: each for each in found.values()}}, operations=operations
    )


def _missing_bias(graph: IntegerGraph, operation: Operation) -> Value | None:
    """Zeros in steps of input step x weight step, as wide as the kernel wants them; None where nothing is missing."""
    if operation.kind not in _CONVOLUTIONS or operation.input("bias"):
        return None
    x, weight = (graph.values[name].grid for name in operation.inputs[:2])
    if x is None or weight is None:
        return None
    scale = tuple(float(np.float32(x.scale[0] * step)) for step in weight.scale)
    grid = Grid(32, True, scale, (0,) * len(scale), None if weight.axis is None else 0)
    zeros = np.zeros(graph.values[operation.outputs[0]].shape[-1], "int64" if x.bits > 8 else "int32")
    return Value(f"{operation.outputs[0]}:bias", zeros.shape, str(zeros.dtype), grid, zeros)


def with_pools(graph: IntegerGraph) -> IntegerGraph:
    """The graph with MAX_POOL_2D in place of each STRIDED_SLICE that only thins out rows and columns."""
    return replace(graph, operations=tuple(_pooled(graph, operation) for operation in graph.operations))


def _pooled(graph: IntegerGraph, operation: Operation) -> Operation:
    if operation.kind != "STRIDED_SLICE" or operation.option("shrink_axis_mask"):
        return operation
    data, begin, _, stride = (graph.values[name] for name in operation.inputs)
    output = graph.values[operation.outputs[0]]
    if begin.data is None or stride.data is None or len(data.shape) != 4 or len(output.shape) != 4:
        return operation
    steps = tuple(int(step) for step in stride.data)
    skipped = [start for axis, start in enumerate(begin.data) if not operation.option("begin_mask") >> axis & 1]
    thinned = tuple(-(-size // step) for size, step in zip(data.shape, steps, strict=True))
    if any(skipped) or min(steps) < 1 or steps[0] != 1 or steps[3] != 1 or thinned != output.shape:
        return operation
    options = {"filter": (1, 1), "stride": steps[1:3], "padding": "VALID"}
    return Operation("MAX_POOL_2D", operation.inputs[:1], operation.outputs, options, operation.path)


def tensor_names(graph: IntegerGraph) -> Mapping[str, str]:
    """A name for each tensor that no other has: inputs and outputs keep theirs, others get their layer's path."""
    names = {name: name for name in (*graph.inputs, *graph.outputs)}
    taken = set(names)
    for value, wanted in itertools.chain.from_iterable(map(_wanted, graph.operations)):
        if value and value not in names:
            numbered = (f"{wanted}_{count}" if count else wanted for count in itertools.count())
            names[value] = next(name for name in numbered if name not in taken)
            taken.add(names[value])
    return names


def _wanted(operation: Operation) -> Iterator[tuple[str, str]]:
    """What an operation's values would be called, were there no others."""
    path = operation.path or operation.kind.lower()
    for index, value in enumerate(operation.inputs):
        row = KINDS[operation.kind].input(index)
        role = row.name if row is not None and row.name in _ROLES else f"{operation.kind.lower()}{index}"
        yield value, f"{path}.{role}"
    for value in operation.outputs:
        yield value, path
