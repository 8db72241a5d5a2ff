"""Pooling, means and resizing: over height and width, or over any dimension."""

from __future__ import annotations

import numpy as np
import torch

from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.placed import Placed, channels_last
from haversack.integer.read.windows import is_same, padded
from haversack.integer.windows import Sides, Window

aten = torch.ops.aten
_BOTH = (8, 16)
_LOWEST = float(np.finfo(np.float32).min)


def max_pool(call: TorchCall) -> Placed:
    """MAX_POOL_2D; what pads it is smaller than everything."""
    x, dims = _map(call, _kept(call))
    if set(call.pair("dilation", dims)) != {1}:
        call.refuse("with dilation")
    window, sides = _window(call, x, dims)
    padding = "SAME" if any(map(any, sides)) else "VALID"
    if padding == "SAME" and not is_same(window, x.shape[1:3], sides):
        x, padding = _padded_low(call, x, sides), "VALID"
    return _pool(call, "MAX_POOL_2D", x, window, padding)


def _padded_low(call: TorchCall, x: Placed, sides: Sides) -> Placed:
    builder, axes = call.builder, ((0, 0), *sides, (0, 0))
    if x.grid is None:
        filler = "" if _is_clamped(call, x) else builder.constant(np.array([_LOWEST], np.float32))
    else:
        lowest = np.array([x.grid.qmin], np.dtype(f"int{x.grid.bits}"))
        filler = "" if x.grid.zero_point[0] == x.grid.qmin else builder.constant(lowest, x.grid)
    return padded(builder, x, axes, filler)


def _is_clamped(call: TorchCall, x: Placed) -> bool:
    """Whether nothing in the value is below zero."""
    maker = next(each for each in reversed([None, *call.builder.operations]) if each is None or x.name in each.outputs)
    return maker is not None and not {maker.kind, maker.options.get("activation")}.isdisjoint(("RELU", "RELU6"))


def average_pool(call: TorchCall) -> Placed:
    """AVERAGE_POOL_2D, whose grid is that of what it reads; over the whole map it is MEAN, which has its own."""
    x, dims = _map(call, call.x)
    window, sides = _window(call, x, dims)
    if call.arguments.get("divisor_override") is not None:
        call.refuse("with a divisor")
    if not any(map(any, sides)):
        if window.kernel == x.shape[1:3]:
            return call.settle(_reduced(call, "MEAN", x, list(range(2, x.rank)), keeps=True))
        return _pool(call, "AVERAGE_POOL_2D", x, window, "VALID")
    counted = any(call.pair("padding", dims)) and call["count_include_pad"]
    if counted and all(before == behind for before, behind in sides):
        return _pool(call, "AVERAGE_POOL_2D", padded(call.builder, x, ((0, 0), *sides, (0, 0))), window, "VALID")
    if counted or not is_same(window, x.shape[1:3], sides):
        call.refuse("with this padding")
    return _pool(call, "AVERAGE_POOL_2D", x, window, "SAME")


def _pool(call: TorchCall, kind: str, x: Placed, window: Window, padding: str) -> Placed:
    """A pool writes the grid that it reads; it can clamp in passing."""
    same = call.grid is None or call.grid == x.grid
    activation = call.ending.activation if same else "NONE"
    options = {"filter": window.kernel, "stride": window.stride, "padding": padding, "activation": activation}
    result = call.builder.emit(kind, (x.name,), call.result(x, grid=x.grid), **options)
    return result if same else call.settle(result)


def _map(call: TorchCall, x: Placed) -> tuple[Placed, int]:
    """The channels-last value that is pooled and how many dimensions a window has."""
    if x.rank not in (3, 4):
        call.refuse(f"on {x.rank} dimensions")
    return call.builder.laid(x, channels_last(x.rank)), x.rank - 2


def _kept(call: TorchCall) -> Placed:
    """The value of which numbers are picked: integers also where nothing rounds them, as they stay what they are."""
    return call.raw if call.integer or call.ending.activation == "NONE" else call.x


def _window(call: TorchCall, x: Placed, dims: int) -> tuple[Window, Sides]:
    """Where a pool looks, and by how much its windows stick out before and behind."""
    kernel, padding = call.pair("kernel_size", dims), call.pair("padding", dims)
    # No strides mean windows side by side.
    stride = call.pair("stride", dims) if call["stride"] else kernel
    sizes, counts = x.shape[1:3], call.result(x).shape[1:3]
    ends = [
        max((count - 1) * step + reach - size - pad, 0) if call["ceil_mode"] else pad
        for count, step, reach, size, pad in zip(counts, stride, kernel, sizes, padding, strict=True)
    ]
    return Window(kernel, stride), ((padding[0], ends[0]), (padding[1], ends[1]))


def adaptive_average_pool(call: TorchCall) -> Placed:
    """MEAN where one number is left of each map, else averages of windows that share the map out evenly."""
    x, _ = _map(call, call.x)
    sizes, wanted = x.shape[1:3], call.result(x).shape[1:3]
    if set(wanted) == {1}:
        return call.settle(_reduced(call, "MEAN", x, list(range(2, x.rank)), keeps=True))
    if any(size % target for size, target in zip(sizes, wanted, strict=True)):
        call.refuse("with windows of several sizes")
    height, width = (size // target for size, target in zip(sizes, wanted, strict=True))
    return _pool(call, "AVERAGE_POOL_2D", x, Window((height, width), (height, width)), "VALID")


def mean(call: TorchCall) -> Placed:
    """MEAN."""
    x = call.builder.unmixed(call.x)
    return call.settle(_reduced(call, "MEAN", x, call.dims(), keeps=bool(call["keepdim"])))


def total(call: TorchCall) -> Placed:
    """SUM, of real numbers."""
    x = call.builder.unmixed(call.x)
    return call.settle(_reduced(call, "SUM", x, call.dims(), keeps=bool(call["keepdim"])))


def maximum(call: TorchCall) -> Placed:
    """REDUCE_MAX, on the grid that is read."""
    x = call.builder.unmixed(_kept(call))
    return call.settle(_reduced(call, "REDUCE_MAX", x, call.dims(), keeps=bool(call["keepdim"])))


def _reduced(call: TorchCall, kind: str, x: Placed, dims: list[int], *, keeps: bool) -> Placed:
    if 0 in dims and x.sizes[0].free:
        call.refuse("over the batch")
    axes, grid = sorted(x.axis(dim) for dim in dims), call.grid if kind == "MEAN" else x.grid
    order = x.order
    if not keeps:
        left = [dim for dim in range(x.rank) if dim not in dims]
        order = tuple(None if dim is None else left.index(dim) for dim in order if dim not in dims)
    inputs = x.name, call.builder.integers(*axes)
    return call.builder.emit(kind, inputs, call.result(x, order=order, grid=grid), keep_dims=keeps)


def upsample(call: TorchCall) -> Placed:
    """RESIZE_NEAREST_NEIGHBOR by whole numbers, on the grid that is read."""
    x, _ = _map(call, _kept(call))
    result = call.result(x, grid=x.grid)
    if any(new % old for old, new in zip(x.shape[1:3], result.shape[1:3], strict=True)):
        call.refuse("by a factor that is no whole number")
    inputs = x.name, call.builder.integers(*result.shape[1:3])
    return call.settle(call.builder.emit("RESIZE_NEAREST_NEIGHBOR", inputs, result))


TABLE: Table = {
    **dict.fromkeys((aten.max_pool1d.default, aten.max_pool2d.default), Rule(max_pool, _BOTH)),
    **dict.fromkeys((aten.avg_pool1d.default, aten.avg_pool2d.default), Rule(average_pool, _BOTH)),
    **dict.fromkeys(
        (aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default), Rule(adaptive_average_pool, _BOTH)
    ),
    aten.mean.dim: Rule(mean, _BOTH),
    aten.sum.dim_IntList: Rule(total),
    aten.amax.default: Rule(maximum, _BOTH),
    **dict.fromkeys((aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec), Rule(upsample, _BOTH)),
}
