"""QuantizeLinear and DequantizeLinear, one for each `quantized_decomposed` operation."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx

from haversack.graph.pairs import pairs
from haversack.runtimes.onnx.call import Call, NotComputedError, Table
from haversack.runtimes.onnx.graph import OnnxGraph

aten = torch.ops.aten
_LEAST_STEP = 1e-30
"""Of a row of zeros."""
# Layers that ONNX Runtime has no integer kernel for.
_FLOAT_ONLY = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}


def step_as_it_comes(call: Call) -> tuple[str, str]:
    """The step and the zero point of a value that is rounded as it comes; its integers come of the same node."""
    graph = call.graph
    names = graph.split("DynamicQuantizeLinear", graph.cast(call.x, torch.float32), outputs=3, dtype=torch.float32)
    integers, scale, zero_point = names
    graph.types |= {integers: call["dtype"], zero_point: call["dtype"]}
    return scale, zero_point


def rounded_rows(call: Call) -> str:
    """Rows on the 256 integers that span them and zero, in real numbers: ONNX has one step for all of a value."""
    graph = call.graph
    x, zero = graph.cast(call.x, torch.float32), graph.number(0.0, torch.float32)
    low, high = (
        graph.node(nearer, graph.node(end, x, graph.integers([-1])), zero)
        for nearer, end in (("Min", "ReduceMin"), ("Max", "ReduceMax"))
    )
    span = graph.node("Div", graph.node("Sub", high, low), graph.number(255.0, torch.float32))
    step = graph.node("Max", span, graph.number(_LEAST_STEP, torch.float32))
    place = graph.node("Round", graph.node("Div", graph.node("Neg", low), step))
    integers = graph.node("Add", graph.node("Round", graph.node("Div", x, step)), place)
    clamped = graph.node("Clip", integers, zero, graph.number(255.0, torch.float32))
    return graph.cast(graph.node("Mul", graph.node("Sub", clamped, place), step), graph.stored_type(torch.float32))


def quantize(call: Call) -> str:
    """Real numbers to integers, clipped where the grid is narrower than their type."""
    if _is_as_it_comes(call):
        return _integers_of(call)
    scale, zero_point, axis = _grid(call)
    if call["dtype"] == torch.int16:
        raise NotComputedError(
            "ONNX Runtime has no integer kernels for int16 activations.",
            where=f"value {call.first.name}",
            mend="choose uint8 or int8, or --runtime litert.",
        )
    real = call.graph.cast(call.x, torch.float32)
    integers = call.graph.node("QuantizeLinear", real, scale, zero_point, dtype=call["dtype"], axis=axis)
    ends = torch.iinfo(call["dtype"])
    low = call["quant_min"] if call["quant_min"] > ends.min else None
    high = call["quant_max"] if call["quant_max"] < ends.max else None
    if axis is not None or low is high is None:
        return integers
    limits = ["" if end is None else call.graph.number(end, call["dtype"]) for end in (low, high)]
    return call.graph.node("Clip", integers, *limits)


def dequantize(call: Call) -> str:
    """Integers to real numbers.

    Weights of a layer that computes on real numbers are multiplied out by plain operations: ONNX Runtime does those
    once, when it loads the file, and a DequantizeLinear at each run.
    """
    if _is_as_it_comes(call):
        scale, zero_point = (call.value(call[name]) for name in ("scale", "zero_point"))
        return call.graph.node("DequantizeLinear", call.x, scale, zero_point, dtype=torch.float32)
    scale, zero_point, axis = _grid(call)
    if axis is not None and not _is_read_by_integers(call.operation):
        shape = [-1 if dim == axis else 1 for dim in range(len(call.shape))]
        steps = call.graph.constant(call.tensor(call["scales"]).view(shape), exact=True)
        real = call.graph.node("Mul", call.graph.cast(call.x, torch.float32), steps)
    else:
        real = call.graph.node("DequantizeLinear", call.x, scale, zero_point, dtype=torch.float32, axis=axis)
    return call.graph.cast(real, call.graph.stored_type(torch.float32))


def _is_as_it_comes(call: Call) -> bool:
    return isinstance(call.arguments.get("scale"), fx.Node)


def _integers_of(call: Call) -> str:
    """The integers of the node that worked out their step."""
    scale = call.value(call["scale"])
    return next(str(node.output[0]) for node in reversed(call.graph.nodes) if scale in node.output)


def product_as_it_comes(call: Call, weight: fx.Node) -> str | None:
    """The product of integers that were rounded as they came and a weight's integers, times both steps.

    None where the first argument or the weight is none of these. It is in the nodes that ONNX Runtime fuses.
    """
    inputs, graph = call.first, call.graph
    if inputs.target is not pairs.dequantize_per_tensor.tensor or weight.target is not _PER_CHANNEL:
        return None
    integers, scale, zero_point = (call.value(each) for each in inputs.args[:3])
    stored, steps, zeros, axis = cast("tuple[fx.Node, fx.Node, fx.Node, int]", weight.args[:4])
    table = call.value(stored) if axis else turned(graph, call.value(stored))
    points = call.tensor(zeros)
    shifted = (graph.constant(points.to(call.tensor(stored).dtype)),) if points.any() else ()
    sums = graph.node("MatMulInteger", integers, table, zero_point, *shifted, dtype=torch.int32)
    step = graph.node("Mul", scale, call.value(steps))
    return graph.node("Mul", graph.cast(sums, torch.float32), step)


def turned(graph: OnnxGraph, constant: str) -> str:
    """A constant (out, in) as (in, out).

    What an embedding reads too is stored once and turned around when the file is loaded, any other now.
    """
    if any(node.op_type == "Gather" and node.input[0] == constant for node in graph.nodes):
        return graph.node("Transpose", constant, perm=[1, 0])
    return graph.constant(graph.tensors[constant].t())


def _is_read_by_integers(weight: fx.Node) -> bool:
    """Whether the layer that reads this weight or bias reads dequantized integers beside it."""
    reader = next(iter(weight.users), None)
    while reader is not None and reader.args[0] is weight:
        weight, reader = reader, next(iter(reader.users), None)
    if reader is None or reader.target in _FLOAT_ONLY:
        return False
    values = reader.args[0]
    return isinstance(values, fx.Node) and str(values.target).startswith("quantized_decomposed.dequantize")


def _grid(call: Call) -> tuple[str, str, int | None]:
    """Scale, zero point and axis; the limits of a constant's integers are already in its numbers."""
    if "axis" in call.arguments:
        zero_point = _typed(call, call["zero_points"])
        return call.value(call["scales"]), zero_point, call["axis"]
    return _scale(call), _typed(call, call["zero_point"]), None


def _scale(call: Call) -> str:
    scale = call["scale"]
    return call.value(scale) if isinstance(scale, fx.Node) else call.graph.constant(torch.tensor(scale), exact=True)


def _typed(call: Call, zero_point: fx.Node | int | None) -> str:
    """The zero point in the type of the integers, which is how ONNX learns that type."""
    if zero_point is None:
        return ""
    if isinstance(zero_point, fx.Node):
        zeros = call.tensor(zero_point)
        # A bias in 32 bits needs none. Weights do: without one, ONNX Runtime does not fuse a linear layer.
        unneeded = call["dtype"] == torch.int32 and not zeros.any()
        return "" if unneeded else call.graph.constant(zeros.to(call["dtype"]), exact=True)
    return call.graph.number(zero_point, call["dtype"])


_PER_CHANNEL = pairs.dequantize_per_channel.default
TABLE: Table = {
    "quantized_decomposed.choose_qparams": step_as_it_comes,
    "haversack.rounded_rows": rounded_rows,
    "quantized_decomposed.quantize_per_tensor": quantize,
    "quantized_decomposed.quantize_per_channel": quantize,
    "quantized_decomposed.dequantize_per_tensor": dequantize,
    "quantized_decomposed.dequantize_per_channel": dequantize,
}
