"""Layers: what each operation of an integer graph becomes in C: calls of kernels with records of plain numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from haversack.integer.lowering import parameters
from haversack.integer.parameters import (
    Border,
    Interpolation,
    Joined,
    Lookup,
    Mean,
    Nearest,
    Parameters,
    Parts,
    Pieces,
    Pooled,
    Product,
    Products,
    Reduction,
    Same,
    Softmax8,
    Softmax16,
    Steps,
    Sum,
    Turned,
    WindowedProducts,
)
from haversack.runtimes.c_source.layers import moves, numbers, products, windows
from haversack.runtimes.c_source.layers.call import Call, Layer

# Each takes the parameters that its key names.
_WRITERS: Mapping[type, Callable[[Layer, Any], Iterator[Call]]] = {
    WindowedProducts: products.convolution,
    Products: products.connected,
    Pooled: windows.pool,
    Sum: numbers.added,
    Product: numbers.multiplied,
    Same: numbers.chosen,
    Lookup: numbers.looked_up,
    Pieces: numbers.looked_up,
    Softmax8: numbers.softmax,
    Softmax16: numbers.softmax_of_16_bits,
    Interpolation: numbers.interpolated,
    Reduction: numbers.reduced,
    Mean: numbers.reduced,
    Border: moves.border,
    Joined: moves.joined,
    Parts: moves.parts,
    Turned: moves.turned,
    Steps: moves.sliced,
    Nearest: moves.nearest,
}


_LONGEST = (1 << 15) - 1
"""Sizes of maps and windows are kept in 16 bits."""


def calls(layer: Layer, by: Parameters | None = None) -> tuple[Call, ...]:
    """The kernels that compute a layer, in their order. Raises ExportError for what there is no kernel for.

    It computes with the parameters `by`, where they are not those that its graph says.
    """
    if layer.operation.kind == "RESHAPE":
        return ()
    for value in layer.computed():
        if value.grid is None and value.dtype != "int32":
            raise layer.refuse("on real numbers")
        if max(value.shape, default=0) > _LONGEST:
            raise layer.refuse(f"on values of the shape {value.shape}: {_LONGEST:,} are the most along an axis")
    by = parameters(layer.graph, layer.operation) if by is None else by
    writer = _WRITERS.get(type(by))
    if writer is None:
        raise layer.refuse("on such numbers")
    return tuple(writer(layer, by))
