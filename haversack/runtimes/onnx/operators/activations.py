"""Activations and other functions of one number."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from haversack.runtimes.onnx.call import Call, Table
from haversack.runtimes.onnx.operators.arithmetic import truncated


def same(operation: str) -> Callable[[Call], str]:
    """A function that writes one ONNX operation of one input without attributes."""
    return lambda call: call.graph.node(operation, call.graph.cast(call.x, call.dtype))


def clip(call: Call, low: float | None, high: float | None) -> str:
    """min(max(x, low), high); ReLU where only zero bounds it, since runtimes fuse that best."""
    if low == 0 and high is None:
        return call.graph.node("Relu", call.x)
    bounds = ("" if bound is None else call.graph.number(bound, call.dtype) for bound in (low, high))
    return call.graph.node("Clip", call.x, *bounds)


def clamp(call: Call) -> str:
    """Bounds that are numbers, or tensors of the input's shape."""
    bounds = call["min"], call["max"]
    if all(bound is None or isinstance(bound, int | float) for bound in bounds):
        return clip(call, *bounds)
    x = call.x
    for operation, bound in zip(("Max", "Min"), bounds, strict=True):
        x = x if bound is None else call.graph.node(operation, x, call.graph.cast(call.value(bound), call.dtype))
    return x


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
    """log(1 + exp(beta x)) / beta. torch's switch to x above the threshold changes less than float32 resolves."""
    graph, beta = call.graph, call["beta"]
    if beta == 1:
        return graph.node("Softplus", call.x)
    factor = graph.number(beta, call.dtype)
    return graph.node("Div", graph.node("Softplus", graph.node("Mul", call.x, factor)), factor)


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


def shrink(bias: str) -> Callable[[Call], str]:
    """A function that writes zero where no number is above `lambd`, and what is above it less the bias."""

    def written(call: Call) -> str:
        less = call[bias] if bias else 0.0
        return call.graph.node("Shrink", call.x, lambd=float(call["lambd"]), bias=float(less))

    return written


def threshold(call: Call) -> str:
    """`x` where it is above the threshold, else `value`."""
    graph = call.graph
    above = graph.node("Greater", call.x, graph.number(call["threshold"], call.dtype), dtype=torch.bool)
    return graph.node("Where", above, call.x, graph.number(call["value"], call.dtype), dtype=call.dtype)


def celu(call: Call) -> str:
    """ELU whose slope at zero is 1 whatever alpha is."""
    return call.graph.node("Celu", call.x, alpha=float(call["alpha"]))


def of_one_more(call: Call) -> str:
    """log(1 + x)."""
    return call.graph.node("Log", call.graph.node("Add", call.x, call.graph.number(1, call.dtype)))


def less_one(call: Call) -> str:
    """exp(x) - 1."""
    return call.graph.node("Sub", call.graph.node("Exp", call.x), call.graph.number(1, call.dtype))


def logarithm(base: float) -> Callable[[Call], str]:
    """A function that writes a logarithm to another base."""
    return lambda call: call.graph.node(
        "Mul", call.graph.node("Log", call.x), call.graph.number(1 / math.log(base), call.dtype)
    )


def is_(operation: str) -> Callable[[Call], str]:
    """A function that writes IsNaN or IsInf."""
    return lambda call: call.graph.node(operation, call.x, dtype=torch.bool)


TABLE: Table = {
    "aten.abs": same("Abs"),
    "aten.acos": same("Acos"),
    "aten.asin": same("Asin"),
    "aten.atan": same("Atan"),
    "aten.ceil": same("Ceil"),
    "aten.celu": celu,
    "aten.clamp": clamp,
    "aten.clamp_max.default": one_bound,
    "aten.clamp_min.default": one_bound,
    "aten.clip": clamp,
    "aten.cos": same("Cos"),
    "aten.cosh": same("Cosh"),
    "aten.elu": elu,
    "aten.erf": same("Erf"),
    "aten.exp": same("Exp"),
    "aten.exp2": lambda call: call.graph.node("Pow", call.graph.number(2, call.dtype), call.x),
    "aten.expm1": less_one,
    "aten.floor": same("Floor"),
    "aten.gelu": gelu,
    "aten.glu": glu,
    "aten.hardshrink": shrink(""),
    "aten.hardsigmoid": lambda call: call.graph.node("HardSigmoid", call.x, alpha=1 / 6, beta=0.5),
    "aten.hardswish": same("HardSwish"),
    "aten.hardtanh": lambda call: clip(call, call["min_val"], call["max_val"]),
    "aten.isinf": is_("IsInf"),
    "aten.isnan": is_("IsNaN"),
    "aten.leaky_relu": lambda call: call.graph.node("LeakyRelu", call.x, alpha=float(call["negative_slope"])),
    "aten.log": same("Log"),
    "aten.log10": logarithm(10),
    "aten.log1p": of_one_more,
    "aten.log2": logarithm(2),
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
    "aten.sinh": same("Sinh"),
    "aten.softplus": softplus,
    "aten.softshrink": shrink("lambd"),
    "aten.softsign": same("Softsign"),
    "aten.sqrt": same("Sqrt"),
    "aten.square": lambda call: call.graph.node("Mul", call.x, call.x),
    "aten.tan": same("Tan"),
    "aten.tanh": same("Tanh"),
    "aten.threshold": threshold,
    "aten.trunc": lambda call: truncated(call, call.x),
}
