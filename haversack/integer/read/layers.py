"""Layers: convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from haversack.graph.recurrent import ROUNDED_ROWS
from haversack.grid import Grid
from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.placed import Constant, Placed, channels_last
from haversack.integer.read.windows import fitted
from haversack.integer.windows import Sides, Window

aten = torch.ops.aten
_BOTH = (8, 16)
_ROUNDING = {aten.linear.default, aten.matmul.default, aten.mm.default}


@dataclass(frozen=True)
class _Weights:
    """A layer's weight, output channels first, and its bias."""

    kernel: Constant
    bias: Constant | None
    outputs: int


def convolution(call: TorchCall) -> Placed:
    """CONV_2D or DEPTHWISE_CONV_2D; the depth of CONV_2D's filters says how many groups there are.

    XNNPACK runs 8 groups ten times as fast as 8 convolutions between a SPLIT and a CONCATENATION.
    """
    x, weights = call.x, _weights(call)
    dims = x.rank - 2
    if dims not in (1, 2) or dims != weights.kernel.tensor.dim() - 2:
        call.refuse(f"on {x.rank} dimensions")
    weights = replace(weights, kernel=_as_image(weights.kernel))
    x = call.builder.laid(x, channels_last(x.rank))
    channels, groups = x.sizes[1].number, int(call["groups"])
    stride, dilation = call.pair("stride", dims), call.pair("dilation", dims)
    window = Window(_kernel_size(weights.kernel), stride, dilation)
    x, padding = fitted(call.builder, x, window, _padding(call, dims, window))
    options: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding": padding}
    result = call.result(x)
    if 1 < groups == channels:
        options["depth_multiplier"] = len(weights.kernel.tensor) // channels
        kernel = call.weight(weights.kernel.permuted(1, 2, 3, 0))
        return call.finish("DEPTHWISE_CONV_2D", (x.name, kernel, _bias(call, x, weights)), result, **options)
    kernel = call.weight(weights.kernel.permuted(0, 2, 3, 1))
    return call.finish("CONV_2D", (x.name, kernel, _bias(call, x, weights)), result, **options)


def _weights(call: TorchCall, channels: int = 1) -> _Weights:
    """The layer's weights; its output channels are the result's dimension `channels`."""
    kernel, bias = call.constant(call["weight"]), call["bias"]
    known = None if bias is None else call.constant(bias)
    if kernel is None or (bias is not None and known is None):
        call.refuse("with weights that the network computes")
    return _Weights(kernel, known, call.sizes[channels].number)


def _as_image(kernel: Constant) -> Constant:
    return kernel if kernel.tensor.dim() == 4 else replace(kernel, tensor=kernel.tensor.unsqueeze(2))


def _kernel_size(kernel: Constant) -> tuple[int, int]:
    height, width = kernel.tensor.shape[2:]
    return int(height), int(width)


def _padding(call: TorchCall, dims: int, window: Window) -> Sides:
    """How many zeros go before and behind height and width."""
    if call["padding"] == "valid":
        return (0, 0), (0, 0)
    if call["padding"] == "same":
        totals = [reach - 1 for reach in window.reach]
        above, left = ((total // 2, total - total // 2) for total in totals)
        return above, left
    height, width = call.pair("padding", dims)
    return (height, height), (width, width)


def _bias(call: TorchCall, x: Placed, weights: _Weights) -> str:
    """The bias in steps of input step x weight step, 32 bits wide, or 64 beside 16-bit activations (TFLite's own)."""
    scales = weights.kernel.grid
    # Zeros where torch has none: tflite-micro's float convolutions read a bias whether there is one or not.
    bias = weights.bias or Constant(torch.zeros(weights.outputs))
    if not call.integer or x.grid is None or scales is None:
        return call.builder.stored(Constant(bias.real))
    if bias.grid is None:
        step = torch.tensor(scales.scale) * torch.tensor(x.grid.scale)
        axis = 0 if len(scales.scale) > 1 else None
        grid = Grid(32, True, tuple(step.tolist()), (0,) * len(step), axis)
        bias = Constant(grid.quantize(bias.tensor), grid)
    return call.builder.stored(bias, bits=64 if x.grid.bits == 16 else 32)


def linear(call: TorchCall) -> Placed:
    """FULLY_CONNECTED."""
    weights = _weights(call, -1)
    return connected(call, call.x, weights.kernel, weights.bias)


def rounded_rows(call: TorchCall) -> Placed:
    """Nothing: the layer that reads them rounds them."""
    layers = [node for node in call.node.users if node.target in _ROUNDING and node.args[0] is call.node]
    if len(layers) < len(call.node.users):
        call.refuse("read by what is no linear layer")
    return call.builder.real(call.raw)


def connected(call: TorchCall, x: Placed, kernel: Constant, bias: Constant | None) -> Placed:
    """FULLY_CONNECTED, whose weight takes its columns as the values lie: flattened maps need no transposing."""
    weights, builder = _Weights(kernel, bias, call.sizes[-1].number), call.builder
    if x.columns is not None:
        weights = replace(weights, kernel=replace(weights.kernel, tensor=weights.kernel.tensor[:, x.columns.indices()]))
    weights = replace(weights, kernel=_joint(weights.kernel), bias=weights.bias and _joint(weights.bias))
    features, flat = x.rank - 1, x.rank == 2
    order = x.order
    if flat and x.long() == [0, 1]:
        order = (0, 1)
    elif x.columns is None:
        x = builder.laid(x, (*(dim for dim in x.order if dim is not None and dim != features), features))
        order = x.order
    kernel, shift = weights.kernel, _bias(call, x, weights)
    result, options = replace(call.result(x, order=order), columns=None), {"keep_num_dims": not flat}
    if call.rounds_as_it_comes and kernel.grid is not None:
        inputs = x.name, builder.stored(kernel), shift
        return call.finish("FULLY_CONNECTED", inputs, result, asymmetric_quantize_inputs=True, **options)
    return call.finish("FULLY_CONNECTED", (x.name, call.weight(kernel), shift), result, **options)


def _joint(constant: Constant) -> Constant:
    """The constant with one step for all where its channels' steps are one number: files store it once."""
    grid = constant.grid
    if grid is None or len(set(grid.scale)) > 1 or any(grid.zero_point):
        return constant
    return replace(constant, grid=replace(grid, scale=grid.scale[:1], zero_point=(0,), axis=None))


def transposed_convolution(call: TorchCall) -> Placed:
    """TRANSPOSE_CONV; padding that is not TensorFlow's SAME is cut off the whole result."""
    x, weights, builder = call.x, _weights(call), call.builder
    dims = x.rank - 2
    if dims not in (1, 2) or call["groups"] != 1 or set(call.pair("dilation", dims)) != {1}:
        call.refuse("with groups, dilation or three dimensions")
    kernel = _as_image(weights.kernel)
    x = builder.laid(x, channels_last(x.rank))
    stride, padding, extra = (call.pair(name, dims) for name in ("stride", "padding", "output_padding"))
    size, wanted = _kernel_size(kernel), call.result(x).shape[1:3]
    whole = [(old - 1) * step + reach for old, step, reach in zip(x.shape[1:3], stride, size, strict=True)]
    cuts = list(zip(whole, wanted, padding, strict=True))
    same = [before == (all_ - ours) // 2 and ours <= all_ for all_, ours, before in cuts]
    same += [-(-ours // step) == old for ours, step, old in zip(wanted, stride, x.shape[1:3], strict=True)]
    fits = all(same) or not (any(padding) or any(extra))
    if not fits and any(before + ours > all_ for all_, ours, before in cuts):
        call.refuse("with an output padding larger than its padding")
    made = call.result(x) if fits else _with_map(call.result(x), whole)
    shape = builder.integers(*made.shape)
    inputs = shape, call.weight(kernel.permuted(1, 2, 3, 0)), x.name, _bias(call, x, replace(weights, kernel=kernel))
    way = "SAME" if all(same) and whole != list(wanted) else "VALID"
    made = builder.emit("TRANSPOSE_CONV", inputs, replace(made, grid=call.grid), stride=stride, padding=way)
    if not fits:
        made = builder.cut(made, {1 + a: (cuts[a][2], cuts[a][2] + cuts[a][1], 1) for a in (0, 1)}, call.sizes)
    return call.settle(made)


def _with_map(placed: Placed, sizes: list[int]) -> Placed:
    for dim in range(2, placed.rank):
        placed = placed.resized(dim, sizes[dim - placed.rank])
    return placed


TABLE: Table = {
    **dict.fromkeys(
        (aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding), Rule(convolution, _BOTH)
    ),
    aten.linear.default: Rule(linear, _BOTH),
    ROUNDED_ROWS: Rule(rounded_rows, moves=True),
    aten.conv_transpose1d.default: Rule(transposed_convolution, _BOTH),
    aten.conv_transpose2d.input: Rule(transposed_convolution, _BOTH),
}
LAYERS = frozenset(TABLE) - {ROUNDED_ROWS}
