"""Versions: which revision of an operator a file asks its runtime for.

Source: tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc. A runtime that knows only older ones refuses the
file when it loads it, rather than computing something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haversack.export.litert.schema import BUILTINS
from haversack.graph.integer import Operation, Value

_FORMATS = {"int8": 1, "int16": 2}
_WITH_MANY_DIMENSIONS = {"TRANSPOSE": 4, "PAD": 4, "PADV2": 4, "STRIDED_SLICE": 4, "SUB": 3, "MAXIMUM": 3, "MINIMUM": 3}


@dataclass(frozen=True)
class Typed:
    """An operation with the values that it is given and makes, left-out ones not counted."""

    operation: Operation
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    has_int4_weights: bool = False


def version(typed: Typed) -> int:
    """The first version of the operation's kernel that computes this."""
    kind = typed.operation.kind
    data = typed.outputs[0] if kind == "QUANTIZE" else typed.inputs[{"SPLIT": 1, "TRANSPOSE_CONV": 2}.get(kind, 0)]
    usual = BUILTINS[kind].versions[_FORMATS.get(data.dtype, 0)]
    return max(usual, _special(typed), _WITH_MANY_DIMENSIONS.get(kind, 1) if len(data.shape) > 4 else 1)


def _special(typed: Typed) -> int:
    """What weights, options or steps ask for, whatever the format of the numbers."""
    options, inputs = typed.operation.options, typed.inputs
    match typed.operation.kind:
        case "CONV_2D":
            return 7 if typed.has_int4_weights else 6 if inputs[1].shape[3] != inputs[0].shape[3] else 1
        case "DEPTHWISE_CONV_2D":
            return 7 if typed.has_int4_weights else 2 if set(options.get("dilation", ())) - {1} else 1
        case "FULLY_CONNECTED":
            without_bias = 6 if len(inputs) == 2 else 5 if options.get("keep_num_dims") else 1
            return 10 if typed.has_int4_weights else without_bias
        case "TRANSPOSE_CONV":
            return 4 if options.get("activation", "NONE") != "NONE" else 3 if len(inputs) == 4 else 1
        case "RESIZE_NEAREST_NEIGHBOR":
            return 3 if options.get("half_pixel_centers") or options.get("align_corners") else 1
        case "MUL":
            return 3 if _multiplies_up(typed) else 1
        case _:
            return 1


def _multiplies_up(typed: Typed) -> bool:
    """Whether a product of two integers is worth at least one step of the output."""
    grids = [value.grid for value in (*typed.inputs, *typed.outputs)]
    first, second, output = (grid.scale[0] if grid else 0.0 for grid in grids)
    return output > 0 and first * second >= output
