"""Versions: which revision of an operator a file asks its runtime for.

Source: tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc. A runtime that knows only older ones refuses the
file when it loads it, rather than computing something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haversack.errors import ExportError
from haversack.export.litert.schema import BUILTINS
from haversack.graph.integer import IntegerGraph, Operation, Value

_FORMATS = {"int8": 1, "int16": 2}
_WITH_MANY_DIMENSIONS = {"TRANSPOSE": 4, "PAD": 4, "PADV2": 4, "STRIDED_SLICE": 4, "SUB": 3, "MAXIMUM": 3, "MINIMUM": 3}
# LiteRT for Microcontrollers (October 2026) loads a file with these, and fails when it runs.
_NOT_IN_MICRO = {("REDUCE_MAX", "int16")}


@dataclass(frozen=True)
class Typed:
    """An operation with the values that it is given and makes, left-out ones not counted."""

    operation: Operation
    inputs: Sequence[Value]
    outputs: Sequence[Value]
    has_int4_weights: bool = False


def version(typed: Typed) -> int:
    """The first version of the operation's kernel that computes this. Raises ExportError when none does."""
    kind = typed.operation.kind
    data = typed.outputs[0] if kind == "QUANTIZE" else typed.inputs[{"SPLIT": 1, "TRANSPOSE_CONV": 2}.get(kind, 0)]
    usual = BUILTINS[kind].versions[_FORMATS.get(data.dtype, 0)]
    if not usual:
        raise ExportError(
            f"no runtime of .tflite files has {kind} on {data.dtype}.",
            where=typed.operation.path,
            mend="leave this layer float, or use int8 activations.",
        )
    return max(usual, _special(typed), _WITH_MANY_DIMENSIONS.get(kind, 1) if len(data.shape) > 4 else 1)


def check_micro(graph: IntegerGraph) -> None:
    """Nothing, or an ExportError that names the first operation that LiteRT for Microcontrollers lacks."""
    for operation in graph.operations:
        value = graph.values[operation.inputs[0]]
        if (operation.kind, value.dtype) in _NOT_IN_MICRO:
            raise ExportError(
                f"LiteRT for Microcontrollers has no {operation.kind} on {value.dtype}.",
                where=operation.path,
                mend="leave this layer float, or use int8 activations.",
            )
        # It takes such a file, and computes with the first channel's step throughout.
        if operation.kind == "DEQUANTIZE" and _has_steps(value):
            raise ExportError(
                "LiteRT for Microcontrollers cannot compute with integer weights and real activations.",
                where=operation.path,
                mend="quantize the activations too (quantize_static), or choose another runtime.",
            )


def _special(typed: Typed) -> int:
    """What weights, options or steps ask for, whatever the format of the numbers."""
    kind, options, inputs = typed.operation.kind, typed.operation.options, typed.inputs
    if typed.has_int4_weights:
        return {"FULLY_CONNECTED": 10, "DEQUANTIZE": 6}.get(kind, 7)
    checks = {
        "CONV_2D": ((6, lambda: inputs[1].shape[3] != inputs[0].shape[3]),),
        "DEPTHWISE_CONV_2D": ((2, lambda: set(options.get("dilation", ())) - {1}),),
        "FULLY_CONNECTED": ((6, lambda: len(inputs) == 2), (5, lambda: options.get("keep_num_dims"))),
        "TRANSPOSE_CONV": ((4, lambda: options.get("activation", "NONE") != "NONE"), (3, lambda: len(inputs) == 4)),
        "RESIZE_NEAREST_NEIGHBOR": ((3, lambda: options.get("half_pixel_centers") or options.get("align_corners")),),
        "DEQUANTIZE": ((3, lambda: inputs[0].dtype == "float16"), (5, lambda: _has_steps(inputs[0]))),
        "MUL": ((3, lambda: _multiplies_up(typed)),),
    }
    return next((number for number, holds in checks.get(kind, ()) if holds()), 1)


def _has_steps(value: Value) -> bool:
    """Whether each channel has a step of its own."""
    return value.grid is not None and len(value.grid.scale) > 1


def _multiplies_up(typed: Typed) -> bool:
    """Whether a product of two integers is worth at least one step of the output."""
    grids = [value.grid for value in (*typed.inputs, *typed.outputs)]
    first, second, output = (grid.scale[0] if grid else 0.0 for grid in grids)
    return output > 0 and first * second >= output
