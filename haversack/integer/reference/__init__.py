"""Runs an integer graph with NumPy: what a runtime with TFLite's arithmetic must compute, to the bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from haversack.errors import MeasureError
from haversack.integer import Array, IntegerGraph, Operation
from haversack.integer.lowering import parameters
from haversack.integer.parameters import Joined, Parameters, Parts, Reduction, Steps, Turned
from haversack.integer.reference import curves, elementwise, linear, maps
from haversack.integer.reference.call import Kernel, KernelCall

TABLE: Mapping[str, Kernel] = {
    **linear.KERNELS,
    **elementwise.KERNELS,
    **maps.KERNELS,
    **curves.KERNELS,
}

_Prepared = tuple[Operation, Kernel, Parameters]

# So many inputs at a time stay in the cache and keep memory bounded.
_ROWS = 32


def run(graph: IntegerGraph, inputs: Sequence[Array], keep: Collection[str] = ()) -> list[Array]:
    """The outputs for `inputs`, then the inner values that `keep` names, in its order.

    Inputs are laid out as the graph says (channels last) and may hold any number of rows where the graph says one.
    """
    _check(graph, inputs)
    names = [*graph.outputs, *keep]
    prepared = list(_prepared(graph))
    step = _ROWS if _rows_are_independent(graph, prepared) else 1
    starts = range(0, len(inputs[0]), step)
    parts = [_run_rows(graph, prepared, [x[row : row + step] for x in inputs], names) for row in starts]
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


def _prepared(graph: IntegerGraph) -> Iterator[_Prepared]:
    for operation in graph.operations:
        kernel = TABLE.get(operation.kind)
        if kernel is None:
            raise MeasureError(f"the integer reference has no {operation.kind}.", where=operation.path)
        yield operation, kernel, parameters(graph, operation)


def _run_rows(
    graph: IntegerGraph, prepared: Sequence[_Prepared], inputs: Sequence[Array], names: Sequence[str]
) -> list[Array]:
    """The named values for a few rows of inputs."""
    arrays = {value.name: np.asarray(value.data) for value in graph.constants()}
    arrays.update(zip(graph.inputs, inputs, strict=True))
    last = {name: index for index, operation in enumerate(graph.operations) for name in operation.inputs}
    for index, (operation, kernel, computed_with) in enumerate(prepared):
        outputs = tuple(graph.values[name] for name in operation.outputs)
        result = kernel(KernelCall(operation, outputs, tuple(map(arrays.get, operation.inputs))), computed_with)
        arrays.update(zip(operation.outputs, result if isinstance(result, tuple) else (result,), strict=True))
        for name in set(operation.inputs) - set(names):
            if last[name] == index:
                arrays.pop(name, None)
    return [arrays[name] for name in names]


def _rows_are_independent(graph: IntegerGraph, prepared: Sequence[_Prepared]) -> bool:
    """Whether a batch can be run at once: no operation touches the first axis."""
    activations = (value for value in graph.values.values() if value.data is None)
    return all(value.shape[:1] == (1,) for value in activations) and not any(
        _touches_the_batch(graph, operation, computed_with) for operation, _, computed_with in prepared
    )


def _touches_the_batch(graph: IntegerGraph, operation: Operation, computed_with: Parameters) -> bool:
    """Whether an operation moves or mixes numbers along the first axis."""
    match computed_with:
        case Reduction(axes=axes):
            return 0 in axes
        case Joined(axis=axis) | Parts(axis=axis):
            return axis == 0
        case Turned(order=order):
            return order[0] != 0
        case Steps():
            return bool(operation.option("shrink_axis_mask") & 1)
    return operation.kind == "SOFTMAX" and len(graph.values[operation.outputs[0]].shape) == 1
