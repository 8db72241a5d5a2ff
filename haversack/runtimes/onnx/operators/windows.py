"""Windows: numbers laid out window by window, put back, or read between the points of a map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from haversack.runtimes.onnx.call import Call, Dim, Table
from haversack.runtimes.onnx.operators.shapes import reshaped


def unfold(call: Call) -> str:
    """Windows along one dimension, whose numbers become a last dimension."""
    axis = call.dim("dimension")
    starts = torch.arange(0, call.size(axis) - call["size"] + 1, call["step"])
    places = starts[:, None] + torch.arange(call["size"])
    windows = call.graph.node("Gather", call.x, call.graph.constant(places), axis=axis)
    order = [dim for dim in range(len(call.shape) + 1) if dim != axis + 1]
    return call.graph.node("Transpose", windows, perm=[*order, axis + 1])


def columns(call: Call) -> str:
    """Every window of a map as one column: a convolution with a kernel for each tap."""
    taps, channels = _taps(call), call.size(1)
    windows = call.graph.node(
        "Conv", call.x, _kernels(call, taps, channels), group=channels, kernel_shape=taps, **_placed(call)
    )
    return call.graph.node("Reshape", windows, call.graph.integers([0, int(call.result[1]), -1]))


def map_of_columns(call: Call) -> str:
    """The sum of columns at the places of the windows that they stand for: what `columns` does, transposed."""
    taps, size = _taps(call), call.spatial("output_size", 2)
    channels = int(call.result[1])
    counts, behind = [], []
    for dim, each in enumerate(size):
        step, pad, rate = (call.spatial(name, 2)[dim] for name in ("stride", "padding", "dilation"))
        over = each + 2 * pad - rate * (taps[dim] - 1) - 1
        counts.append(over // step + 1)
        behind.append(over % step)
    grid = call.graph.node("Reshape", call.x, call.graph.integers([0, channels * taps[0] * taps[1], *counts]))
    return call.graph.node(
        "ConvTranspose",
        grid,
        _kernels(call, taps, channels),
        group=channels,
        kernel_shape=taps,
        output_padding=behind if any(behind) else None,
        **_placed(call),
    )


def _taps(call: Call) -> list[int]:
    rank = 4 if "im2col" in str(call.operation.target) else 3
    if len(call.shape) != rank:
        raise call.unsupported("without a batch dimension")
    return call.spatial("kernel_size", 2)


def _kernels(call: Call, taps: list[int], channels: int) -> str:
    """For each channel one kernel a tap, which picks it."""
    count = taps[0] * taps[1]
    picks: Tensor = torch.eye(count).view(count, 1, *taps)
    return call.graph.constant(picks.repeat(channels, 1, 1, 1))


def _placed(call: Call) -> dict[str, Any]:
    return {
        "strides": call.spatial("stride", 2),
        "pads": call.spatial("padding", 2) * 2,
        "dilations": call.spatial("dilation", 2),
    }


def sampled(call: Call) -> str:
    """A map read at the points of a grid (Jaderberg et al. 2015)."""
    if len(call.shape) != 4:
        raise call.unsupported("in three dimensions")
    return call.graph.node(
        "GridSample",
        call.x,
        call.value(call["grid"]),
        mode=("bilinear", "nearest", "bicubic")[call["interpolation_mode"]],
        padding_mode=("zeros", "border", "reflection")[call["padding_mode"]],
        align_corners=int(call["align_corners"]),
    )


def repeated(call: Call) -> str:
    """Each number several times in a row along a dimension, or of all numbers."""
    times, graph = call["repeats"], call.graph
    if not isinstance(times, int):
        raise call.unsupported("with a number of copies for each")
    shape: list[Dim]
    if call["dim"] is None:
        shape, axis, x = [-1], 0, graph.node("Reshape", call.x, graph.integers([-1]))
    else:
        shape, axis, x = list(call.shape), call.dim(), call.x
    apart = graph.node("Unsqueeze", x, graph.integers([axis + 1]))
    copies = graph.node(
        "Tile", apart, graph.integers([times if dim == axis + 1 else 1 for dim in range(len(shape) + 1)])
    )
    return reshaped(call, copies, [*shape[: axis + 1], times, *shape[axis + 1 :]], call.result)


TABLE: Table = {
    "aten.col2im": map_of_columns,
    "aten.grid_sampler": sampled,
    "aten.im2col": columns,
    "aten.repeat_interleave.self_int": repeated,
    "aten.unfold": unfold,
}
