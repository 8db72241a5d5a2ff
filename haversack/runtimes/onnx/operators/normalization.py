"""Normalizations and softmax."""

from __future__ import annotations

import math

import torch

from haversack.runtimes.onnx.call import Call, Table
from haversack.runtimes.onnx.graph import OnnxGraph
from haversack.runtimes.onnx.operators.shapes import reshaped


def layer_norm(call: Call) -> str:
    """LayerNormalization over the last dimensions."""
    weight = call["weight"]
    scale = call.graph.constant(torch.ones(call["normalized_shape"])) if weight is None else call.value(weight)
    axis = -len(call["normalized_shape"])
    _leave_apart(call.graph, call.x)
    return call.graph.node(
        "LayerNormalization", call.x, scale, call.value(call["bias"]), axis=axis, epsilon=float(call["eps"])
    )


def _leave_apart(graph: OnnxGraph, value: str) -> None:
    """Writes the addition that made the value as a Sum.

    ONNX Runtime (1.32) makes one kernel of an Add and a LayerNormalization, which takes four times as long as both.
    """
    producer = next((node for node in reversed(graph.nodes) if value in node.output), None)
    if producer is not None and producer.op_type == "Add":
        producer.op_type = "Sum"


def rms_norm(call: Call) -> str:
    """The input over its root mean square: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019)."""
    graph, x = call.graph, call.x
    epsilon = torch.finfo(torch.float32).eps if call["eps"] is None else call["eps"]
    axes = graph.integers([-1 - index for index in range(len(call["normalized_shape"]))])
    mean = graph.node("ReduceMean", graph.node("Mul", x, x), axes)
    root = graph.node("Sqrt", graph.node("Add", mean, graph.number(epsilon, call.dtype)))
    result = graph.node("Div", x, root)
    return result if call["weight"] is None else graph.node("Mul", result, call.value(call["weight"]))


def instance_norm(call: Call) -> str:
    """InstanceNormalization by the statistics of the input itself."""
    if not call["use_input_stats"]:
        raise call.unsupported("with running statistics")
    channels = call.size(1)
    ones, zeros = (call.graph.constant(fill(channels)) for fill in (torch.ones, torch.zeros))
    weight, bias = call.value(call["weight"]) or ones, call.value(call["bias"]) or zeros
    return call.graph.node("InstanceNormalization", call.x, weight, bias, epsilon=float(call["eps"]))


def group_norm(call: Call) -> str:
    """Instance normalization of the groups, then a scale and shift of the channels.

    Opset 18's GroupNormalization takes its scale by group, which is not what torch means.
    """
    graph, groups, channels, rest = call.graph, call["num_groups"], call.size(1), call.shape[2:]
    inner = math.prod(rest, start=channels // groups)
    flat = graph.node("Reshape", call.x, graph.integers([0, groups, -1]))
    ones, zeros = (graph.constant(fill(groups)) for fill in (torch.ones, torch.zeros))
    normal = graph.node("InstanceNormalization", flat, ones, zeros, epsilon=float(call["eps"]))
    result = reshaped(call, normal, (call.shape[0], groups, inner), call.shape)
    for operation, argument in (("Mul", call["weight"]), ("Add", call["bias"])):
        if argument is not None:
            factors = call.tensor(argument).view(channels, *[1] * len(rest))
            result = graph.node(operation, result, graph.constant(factors))
    return result


def softmax(call: Call) -> str:
    """Softmax or LogSoftmax along a dimension."""
    operation = "LogSoftmax" if "log" in str(call.operation.target) else "Softmax"
    return call.graph.node(operation, call.graph.cast(call.x, call.dtype), axis=call.dim())


TABLE: Table = {
    "aten._log_softmax": softmax,
    "aten._softmax": softmax,
    "aten.group_norm": group_norm,
    "aten.instance_norm": instance_norm,
    "aten.layer_norm": layer_norm,
    "aten.log_softmax": softmax,
    "aten.rms_norm": rms_norm,
    "aten.softmax": softmax,
}
