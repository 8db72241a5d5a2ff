"""Ending: what follows an operation's result and vanishes into it: the clamping activation and the rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from haversack.errors import ExportError
from haversack.graph.memory import operation
from haversack.graph.pairs import pairs
from haversack.graph.trace import layer_path
from haversack.grid import Grid

aten = torch.ops.aten

_INTEGERS = {torch.uint8: 8, torch.int8: 8, torch.int16: 16}
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Ending:
    """The nodes behind an operation that it takes in, the grid of its result (None: real) and TFLite's activation."""

    nodes: tuple[fx.Node, ...] = ()
    grid: Grid | None = None
    activation: str = "NONE"


@dataclass(frozen=True)
class OutputGrid:
    """What a quantize node rounds to, as TFLite has it: signed, all integers of the type, and the limits within."""

    grid: Grid
    low: int
    high: int

    def activation(self, bounds: Bounds | None) -> str | None:
        """The activation that clamps to the limits and to `bounds`; None where TFLite has none that does."""
        grid, low, high = self.grid, self.low, self.high
        if bounds is not None:
            low, high = max(low, self._integer(bounds[0])), min(high, self._integer(bounds[1]))
        # Symmetric 16-bit grids leave out the lowest integer, which no kernel knows of and no test can see.
        if low <= grid.qmin + (grid.bits == 16):
            return "NONE" if high >= grid.qmax else self._six(high, at_zero=grid.zero_point[0] == grid.qmin)
        if low != grid.zero_point[0]:
            return None
        return "RELU" if high >= grid.qmax else self._six(high, at_zero=True)

    def _six(self, high: int, *, at_zero: bool) -> str | None:
        return "RELU6" if at_zero and high == self._integer(6.0) else None

    def _integer(self, real: float) -> int:
        grid = self.grid
        exact = min(max(real / grid.scale[0], -1e9), 1e9)
        return min(max(round(exact) + grid.zero_point[0], grid.qmin), grid.qmax)


def rounding(quantize: fx.Node) -> OutputGrid:
    """What a `quantize_per_tensor` or `dequantize_per_tensor` node says of its integers."""
    _, scale, zero, low, high, dtype, *_ = quantize.args
    bits = _INTEGERS.get(dtype)  # type: ignore[arg-type]
    if bits is None:
        raise refused(quantize, f"to {dtype}")
    shift = signed_shift(dtype)
    grid = Grid(bits, True, (float(scale),), (int(zero) - shift,))  # type: ignore[arg-type]
    return OutputGrid(grid, int(low) - shift, int(high) - shift)  # type: ignore[arg-type]


def signed_shift(dtype: Any) -> int:  # noqa: ANN401 - a torch.dtype out of a graph
    """What is taken from integers of this type to make them signed."""
    return 128 if dtype == torch.uint8 else 0


def bounds_of(node: fx.Node) -> Bounds | None:
    """The numbers between which an activation clamps; None where the node does something else."""
    if node.target is aten.relu.default:
        return 0.0, math.inf
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    if node.target is aten.hardtanh.default:
        low, high = _given(node, 1, "min_val", -1.0), _given(node, 2, "max_val", 1.0)
    elif node.target is aten.clamp.default:
        low, high = _given(node, 1, "min", None), _given(node, 2, "max", None)
    elif node.target is aten.clamp_min.default:
        low, high = _given(node, 1, "min", None), None
    else:
        return None
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return (float(low), float(high)) if isinstance(low, int | float) and isinstance(high, int | float) else None


def _given(node: fx.Node, index: int, name: str, default: float | None) -> Any:  # noqa: ANN401
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def real_activation(bounds: Bounds | None) -> str | None:
    """The activation that clamps real numbers to `bounds`; None where TFLite fuses none that does."""
    return {None: "NONE", (0.0, math.inf): "RELU", (0.0, 6.0): "RELU6"}.get(bounds)


def real_ending(node: fx.Node) -> Ending:
    """The activation behind an operation on real numbers."""
    reader = _only_reader(node)
    bounds = bounds_of(reader) if reader is not None else None
    activation = real_activation(bounds)
    return Ending((reader,), None, activation) if reader is not None and bounds and activation else Ending()


def integer_ending(node: fx.Node) -> Ending | None:
    """The activation and rounding behind an operation; None where its result is not rounded straight away.

    Raises ExportError where the result is clamped as no activation of TFLite does. An activation on its own may still
    be computed on real numbers: None.
    """
    reader, own = _only_reader(node), bounds_of(node)
    taken: tuple[fx.Node, ...] = ()
    bounds = bounds_of(reader) if own is None and reader is not None else own
    if own is None and reader is not None and bounds is not None:
        taken, reader = (reader,), _only_reader(reader)
    if reader is None or reader.target is not pairs.quantize_per_tensor.default:
        return None
    target = rounding(reader)
    activation = target.activation(bounds)
    if activation is None and own is not None:
        return None
    if activation is None:
        limits = f"integers {target.low}..{target.high} around the zero point {target.grid.zero_point[0]}"
        raise refused(node, f"whose result is clamped to {limits}{f' and {bounds}' if bounds else ''}")
    return Ending((*taken, reader), target.grid, activation)


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def refused(node: fx.Node, why: str = "") -> ExportError:
    """The error that names an operation and its layer."""
    layer = layer_path(node)
    return ExportError(
        f"the integer graph does not know {operation(node)}{' ' if why else ''}{why}.",
        where=f"layer {layer}" if layer else f"operation {node.name}",
        mend="leave that layer float, or write this network for ONNX Runtime.",
    )
