"""Activations: functions of one number."""

from __future__ import annotations

import math
from collections.abc import Callable

from haversack.runtimes.onnx.call import Call, Table


def same(operation: str) -> Callable[[Call], str]:
    """A function that writes one ONNX operation of one input without attributes."""
    return lambda call: call.graph.node(operation, call.x)


def clip(call: Call, low: float | None, high: float | None) -> str:
    """min(max(x, low), high); ReLU where only zero bounds it, since runtimes fuse that best."""
    if low == 0 and high is None:
        return call.graph.node("Relu", call.x)
    bounds = ("" if bound is None else call.graph.number(bound, call.dtype) for bound in (low, high))
    return call.graph.node("Clip", call.x, *bounds)


def clamp(call: Call) -> str:
    """Bounds that are numbers."""
    if any(bound is not None and not isinstance(bound, int | float) for bound in (call["min"], call["max"])):
        raise call.unsupported("with bounds that are tensors")
    return clip(call, call["min"], call["max"])


def one_bound(call: Call) -> str:
    """clamp_min and clamp_max."""
    return clip(call, call.arguments.get("min"), call.arguments.get("max"))


def gelu(call: Call) -> str:
    """Exact GELU by erf, or its tanh approximation (Hendrycks and Gimpel 2016)."""
    graph, x, dtype = call.graph, call.x, call.dtype
    if call["approximate"] == "tanh":
        cube = graph.node("Mul", graph.node("Mul", x, x), x)
        inner = graph.node("Add", x, graph.node("Mul", cube, graph.number(0.044715, dtype)))
        curve = graph.node("Tanh", graph.node("Mul", inner, graph.number(math.sqrt(2 / math.pi), dtype)))
    else:
        # The order in which ONNX Runtime's GELU fusion expects the operations.
        curve = graph.node("Erf", graph.node("Div", x, graph.number(math.sqrt(2), dtype)))
    shifted = graph.node("Add", curve, graph.number(1.0, dtype))
    return graph.node("Mul", graph.node("Mul", x, shifted), graph.number(0.5, dtype))


def elu(call: Call) -> str:
    """ELU with its slope; other scales are not written."""
    if call["scale"] != 1 or call["input_scale"] != 1:
        raise call.unsupported("with a scale")
    return call.graph.node("Elu", call.x, alpha=float(call["alpha"]))


def softplus(call: Call) -> str:
    """log(1 + exp(x)). torch's switch to x above the threshold changes less than float32 resolves."""
    if call["beta"] != 1:
        raise call.unsupported("with a beta")
    return call.graph.node("Softplus", call.x)


def prelu(call: Call) -> str:
    """Leaky ReLU with one slope a channel, spread over the dimensions that follow."""
    slopes = call.tensor(call["weight"])
    spread = slopes.view(-1, *[1] * max(0, len(call.shape) - 2))
    return call.graph.node("PRelu", call.x, call.graph.constant(spread))


def silu(call: Call) -> str:
    """The product x * sigmoid(x)."""
    return call.graph.node("Mul", call.x, call.graph.node("Sigmoid", call.x))


def mish(call: Call) -> str:
    """The product x * tanh(softplus(x))."""
    return call.graph.node("Mul", call.x, call.graph.node("Tanh", call.graph.node("Softplus", call.x)))


def glu(call: Call) -> str:
    """One half times the sigmoid of the other (Dauphin et al. 2017)."""
    axis = call.dim()
    sizes = call.graph.integers([call.size(axis) // 2] * 2)
    value, gate = call.graph.split("Split", call.x, sizes, outputs=2, axis=axis)
    return call.graph.node("Mul", value, call.graph.node("Sigmoid", gate))


TABLE: Table = {
    "aten.abs": same("Abs"),
    "aten.ceil": same("Ceil"),
    "aten.clamp.default": clamp,
    "aten.clamp_max.default": one_bound,
    "aten.clamp_min.default": one_bound,
    "aten.clip.default": clamp,
    "aten.cos": same("Cos"),
    "aten.elu": elu,
    "aten.erf": same("Erf"),
    "aten.exp": same("Exp"),
    "aten.floor": same("Floor"),
    "aten.gelu": gelu,
    "aten.glu": glu,
    "aten.hardsigmoid": lambda call: call.graph.node("HardSigmoid", call.x, alpha=1 / 6, beta=0.5),
    "aten.hardswish": same("HardSwish"),
    "aten.hardtanh": lambda call: clip(call, call["min_val"], call["max_val"]),
    "aten.leaky_relu": lambda call: call.graph.node("LeakyRelu", call.x, alpha=float(call["negative_slope"])),
    "aten.log": same("Log"),
    "aten.log_sigmoid": lambda call: call.graph.node(
        "Neg", call.graph.node("Softplus", call.graph.node("Neg", call.x))
    ),
    "aten.logical_not": same("Not"),
    "aten.mish": mish,
    "aten.neg": same("Neg"),
    "aten.prelu": prelu,
    "aten.reciprocal": same("Reciprocal"),
    "aten.relu": same("Relu"),
    "aten.relu6": lambda call: clip(call, 0.0, 6.0),
    "aten.round.default": same("Round"),
    "aten.rsqrt": lambda call: call.graph.node("Reciprocal", call.graph.node("Sqrt", call.x)),
    "aten.selu": same("Selu"),
    "aten.sigmoid": same("Sigmoid"),
    "aten.sign": same("Sign"),
    "aten.silu": silu,
    "aten.sin": same("Sin"),
    "aten.softplus": softplus,
    "aten.sqrt": same("Sqrt"),
    "aten.square": lambda call: call.graph.node("Mul", call.x, call.x),
    "aten.tanh": same("Tanh"),
}
