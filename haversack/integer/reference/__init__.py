"""Runs an integer graph with NumPy: what a runtime with TFLite's arithmetic must compute, to the bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from haversack.errors import MeasureError
from haversack.integer import Array, IntegerGraph, Operation
from haversack.integer.reference import curves, elementwise, linear, maps
from haversack.integer.reference.call import Call, Kernel

TABLE: Mapping[str, Kernel] = {
    **linear.KERNELS,
    **elementwise.KERNELS,
    **maps.KERNELS,
    **curves.KERNELS,
}

# So many inputs at a time stay in the cache and keep memory bounded.
_ROWS = 32


def run(graph: IntegerGraph, inputs: Sequence[Array], keep: Collection[str] = ()) -> list[Array]:
    """The outputs for `inputs`, then the inner values that `keep` names, in its order.

    Inputs are laid out as the graph says (channels last) and may hold any number of rows where the graph says one.
    """
    _check(graph, inputs)
    names = [*graph.outputs, *keep]
    step = _ROWS if _rows_are_independent(graph) else 1
    parts = [_run_rows(graph, [x[row : row + step] for x in inputs], names) for row in range(0, len(inputs[0]), step)]
    return [np.concatenate(pieces) if np.ndim(pieces[0]) else np.stack(pieces) for pieces in zip(*parts, strict=True)]


def _check(graph: IntegerGraph, inputs: Sequence[Array]) -> None:
    if len(inputs) != len(graph.inputs):
        raise MeasureError(f"the graph has {len(graph.inputs)} inputs, and {len(inputs)} were given.")
    if not len(inputs) or not len(inputs[0]):
        raise MeasureError("there is no input to run.")
    for name, array in zip(graph.inputs, inputs, strict=True):
        value = graph.values[name]
        found, wanted = f"{array.dtype}{list(array.shape[1:])}", f"{value.dtype}{list(value.shape[1:])}"
        if found != wanted:
            raise MeasureError(f"input {name!r} has rows of {found}; the graph reads {wanted}.")
        if len(array) != len(inputs[0]):
            raise MeasureError(f"input {name!r} has {len(array)} rows, the first input {len(inputs[0])}.")


def _run_rows(graph: IntegerGraph, inputs: Sequence[Array], names: Sequence[str]) -> list[Array]:
    """The named values for a few rows of inputs."""
    arrays = {value.name: np.asarray(value.data) for value in graph.constants()}
    arrays.update(zip(graph.inputs, inputs, strict=True))
    last = {name: index for index, operation in enumerate(graph.operations) for name in operation.inputs}
    for index, operation in enumerate(graph.operations):
        arrays.update(zip(operation.outputs, _call(graph, operation, arrays), strict=True))
        for name in set(operation.inputs) - set(names):
            if last[name] == index:
                arrays.pop(name, None)
    return [arrays[name] for name in names]


def _call(graph: IntegerGraph, operation: Operation, arrays: dict[str, Array]) -> tuple[Array, ...]:
    kernel = TABLE.get(operation.kind)
    if kernel is None:
        raise MeasureError(f"the integer reference has no {operation.kind}.", where=operation.path)
    call = Call(
        operation,
        tuple(graph.values.get(name) for name in operation.inputs),
        tuple(graph.values[name] for name in operation.outputs),
        tuple(arrays.get(name) for name in operation.inputs),
    )
    result = kernel(call)
    return result if isinstance(result, tuple) else (result,)


def _rows_are_independent(graph: IntegerGraph) -> bool:
    """Whether a batch can be run at once: no operation touches the first axis."""
    activations = (value for value in graph.values.values() if value.data is None)
    return all(value.shape[:1] == (1,) for value in activations) and all(
        0 not in _axes_touched(graph, operation) for operation in graph.operations
    )


def _axes_touched(graph: IntegerGraph, operation: Operation) -> tuple[int, ...]:
    """The axes along which an operation moves or mixes numbers, as far as they could be the batch."""
    kind, rank = operation.kind, len(graph.values[operation.outputs[0]].shape)
    if kind in {"MEAN", "REDUCE_MAX"}:
        rank = len(graph.values[operation.inputs[0]].shape)
        axes = _numbers(graph, operation, 1)
    elif kind == "SPLIT":
        axes = _numbers(graph, operation, 0)
    elif kind == "TRANSPOSE":
        axes = [axis for axis in (0,) if _numbers(graph, operation, 1)[0] != axis]
    elif kind == "STRIDED_SLICE":
        axes = [0] if operation.option("shrink_axis_mask") & 1 else []
    elif kind == "CONCATENATION":
        axes = [operation.option("axis")]
    else:
        axes = [rank - 1] if kind == "SOFTMAX" else []
    return tuple(axis % rank for axis in axes)


def _numbers(graph: IntegerGraph, operation: Operation, index: int) -> list[int]:
    return [int(number) for number in np.asarray(graph.values[operation.inputs[index]].data).reshape(-1)]
