"""Biases: integer convolutions without one get zeros.

LiteRT 2.3 crashes on an int8 DEPTHWISE_CONV_2D without a bias (in XNNPACK) and refuses an int16 CONV_2D without one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from haversack.graph.integer import IntegerGraph, Operation, Value
from haversack.grid import Grid

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
    if operation.kind not in _CONVOLUTIONS or any(operation.inputs[2:]):
        return None
    x, weight = (graph.values[name].grid for name in operation.inputs[:2])
    if x is None or weight is None:
        return None
    scale = tuple(float(np.float32(x.scale[0] * step)) for step in weight.scale)
    grid = Grid(32, True, scale, (0,) * len(scale), None if weight.axis is None else 0)
    zeros = np.zeros(graph.values[operation.outputs[0]].shape[-1], "int64" if x.bits > 8 else "int32")
    return Value(f"{operation.outputs[0]}:bias", zeros.shape, str(zeros.dtype), grid, zeros)
