"""Reductions: one number from many along some dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from haversack.runtimes.onnx.call import Call, Dim, Table
from haversack.runtimes.onnx.operators.shapes import reshaped


def reduction(operation: str) -> Callable[[Call], str]:
    """A function that writes a reduction over the argument `dim`, or over everything."""
    return lambda call: _reduced(call, operation, call.dims())


def mean(call: Call) -> str:
    """The mean; over whole maps it is GlobalAveragePool, which ONNX Runtime fuses and quantizes best."""
    dims, rank = sorted(call.dims()), len(call.shape)
    if rank < 3 or dims != list(range(2, rank)):
        return _reduced(call, "ReduceMean", dims)
    pooled = call.graph.node("GlobalAveragePool", call.x)
    return reshaped(call, pooled, (*call.shape[:2], *[1] * len(dims)), call.result)


def _reduced(call: Call, operation: str, dims: list[int], x: str = "") -> str:
    keep = None if call.arguments.get("keepdim") else 0
    if operation.startswith("Arg"):
        return call.graph.node(operation, call.x, axis=dims[0], keepdims=keep, dtype=torch.int64)
    return call.graph.node(
        operation, x or call.graph.cast(call.x, _of_results(call)), call.graph.integers(dims), keepdims=keep
    )


def _of_results(call: Call) -> torch.dtype:
    """The type that the results have: sums of truth values are counts."""
    values = call.operation.meta["val"]
    value = values[0] if isinstance(values, tuple | list) else values
    return call.graph.stored_type(value.dtype)


def truth(operation: str) -> Callable[[Call], str]:
    """A function that writes whether any number, or all numbers, are other than zero."""

    def written(call: Call) -> str:
        numbers = call.graph.cast(call.graph.cast(call.x, torch.bool), torch.int32)
        return call.graph.cast(_reduced(call, operation, call.dims(), numbers), torch.bool)

    return written


def extreme_and_place(extreme: str, place: str) -> Callable[[Call], tuple[str, ...]]:
    """A function that writes max.dim or min.dim: the extreme and where it is."""
    return lambda call: (_reduced(call, extreme, call.dims()), _reduced(call, place, call.dims()))


def place(operation: str) -> Callable[[Call], str]:
    """A function that writes argmax or argmin along one dimension."""

    def written(call: Call) -> str:
        if call["dim"] is None:
            raise call.unsupported("over all dimensions")
        return _reduced(call, operation, call.dims())

    return written


def vector_norm(call: Call) -> str:
    """The L1 or L2 norm."""
    order = call.arguments.get("ord", call.arguments.get("p"))
    if order not in {1, 2}:
        raise call.unsupported(f"of order {order}")
    return _reduced(call, f"ReduceL{int(order)}", call.dims())


def variance(call: Call) -> str:
    """The mean square of what is left without the mean, corrected for the degrees of freedom (Bessel's by default)."""
    graph, dims = call.graph, call.dims()
    count = math.prod(call.shape[dim] for dim in dims)
    correction = call.arguments.get("correction", float(call.arguments.get("unbiased", True)))
    correction = 1.0 if correction is None else correction
    centred = graph.node("Sub", call.x, graph.node("ReduceMean", call.x, graph.integers(dims)))
    squares = _reduced(call, "ReduceSumSquare", dims, centred)
    dtype = graph.types[call.x]
    if isinstance(count, int):
        return graph.node("Div", squares, graph.number(count - correction, dtype))
    return graph.node("Div", squares, graph.node("Sub", call.value(count, dtype), graph.number(correction, dtype)))


def spread_and_mean(spread: Callable[[Call], str]) -> Callable[[Call], tuple[str, str]]:
    """A function that writes a variance or a deviation, and the mean beside it."""
    return lambda call: (spread(call), _reduced(call, "ReduceMean", call.dims()))


def deviation(call: Call) -> str:
    """The root of the variance."""
    return call.graph.node("Sqrt", variance(call))


def running_sum(call: Call) -> str:
    """The sum of all numbers up to each."""
    axis = call.graph.constant(torch.tensor(call.dim(), dtype=torch.int64))
    return call.graph.node("CumSum", call.graph.cast(call.x, call.dtype), axis)


def largest(call: Call) -> tuple[str, str]:
    """The k largest or smallest numbers along a dimension, in order, and where they are."""
    return _ordered(call, call["k"], call.dim(), largest=call["largest"])


def sort(call: Call) -> tuple[str, str]:
    """All numbers along a dimension in order, and where they were."""
    axis = call.dim()
    return _ordered(call, call.shape[axis], axis, largest=call["descending"])


def _ordered(call: Call, count: Dim, axis: int, *, largest: bool) -> tuple[str, str]:
    numbers, places = call.graph.split(
        "TopK", call.x, call.shape_value([count]), outputs=2, axis=axis, largest=int(largest)
    )
    call.graph.types[places] = torch.int64
    return numbers, places


TABLE: Table = {
    "aten.all": truth("ReduceMin"),
    "aten.amax": reduction("ReduceMax"),
    "aten.amin": reduction("ReduceMin"),
    "aten.any": truth("ReduceMax"),
    "aten.argmax": place("ArgMax"),
    "aten.argmin": place("ArgMin"),
    "aten.argsort": lambda call: sort(call)[1],
    "aten.cumsum": running_sum,
    "aten.linalg_vector_norm": vector_norm,
    "aten.logsumexp": reduction("ReduceLogSumExp"),
    "aten.max.default": reduction("ReduceMax"),
    "aten.max.dim": extreme_and_place("ReduceMax", "ArgMax"),
    "aten.mean": mean,
    "aten.min.default": reduction("ReduceMin"),
    "aten.min.dim": extreme_and_place("ReduceMin", "ArgMin"),
    "aten.norm.ScalarOpt_dim": vector_norm,
    "aten.prod.default": reduction("ReduceProd"),
    "aten.prod.dim_int": reduction("ReduceProd"),
    "aten.sort": sort,
    "aten.std": deviation,
    "aten.std_mean": spread_and_mean(deviation),
    "aten.sum": reduction("ReduceSum"),
    "aten.topk": largest,
    "aten.var": variance,
    "aten.var_mean": spread_and_mean(variance),
}
