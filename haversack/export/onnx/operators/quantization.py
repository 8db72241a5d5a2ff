"""QuantizeLinear and DequantizeLinear, one for each `quantized_decomposed` operation."""

from __future__ import annotations

import torch
from torch import fx

from haversack.export.onnx.call import Call, Table


def quantize(call: Call) -> str:
    """Real numbers to integers."""
    scale, zero_point, axis = _grid(call)
    real = call.graph.cast(call.x, torch.float32)
    return call.graph.node("QuantizeLinear", real, scale, zero_point, dtype=call["dtype"], axis=axis)


def dequantize(call: Call) -> str:
    """Integers to real numbers."""
    scale, zero_point, axis = _grid(call)
    real = call.graph.node("DequantizeLinear", call.x, scale, zero_point, dtype=torch.float32, axis=axis)
    return call.graph.cast(real, call.graph.stored_type(torch.float32))


def _grid(call: Call) -> tuple[str, str, int | None]:
    """Scale, zero point and axis; the integers' limits are already in the numbers."""
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


TABLE: Table = {
    "quantized_decomposed.quantize_per_tensor": quantize,
    "quantized_decomposed.quantize_per_channel": quantize,
    "quantized_decomposed.dequantize_per_tensor": dequantize,
    "quantized_decomposed.dequantize_per_channel": dequantize,
}
