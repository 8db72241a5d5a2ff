"""Operations: which of them compute values, which pick or move them, and so keep the grid of what they read.

Those that only move values (slice, pad, reshape...) stand between the pairs and carry integers. Those that pick values
(max pool, nearest upsampling) read and write one and the same grid, which runtimes compute on integers.
"""

from __future__ import annotations

import operator
from typing import Any, cast

import torch
from torch import fx

aten = torch.ops.aten

LAYERS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, aten.linear.default}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
OF_TWO = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor}
# Results between two numbers that are known beforehand; runtimes demand that grid and no other.
FIXED = {
    **dict.fromkeys((aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int), (0.0, 1.0)),
    aten.tanh.default: (-1.0, 1.0),
}
_OF_ONE = {
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.mean.dim),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    *(aten.leaky_relu.default, aten.hardswish.default, *FIXED),
}
COMPUTES = {*LAYERS, *TRANSPOSED, *OF_TWO, *_OF_ONE, aten.cat.default}
PICKS = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.amax.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec),
}
_WINDOWS = {aten.avg_pool1d.default, aten.avg_pool2d.default}
SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}
PADS = {aten.pad.default, aten.constant_pad_nd.default}
MOVES = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.expand.default),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.slice.Tensor, aten.select.int, *PADS, *SPLITS),
}
# Where each activation that clamps has its lower bound, and what bounds it when that is left out.
CLAMPS: dict[Any, float | None] = {
    aten.relu.default: 0.0,
    aten.relu6.default: 0.0,
    aten.clamp.default: None,
    aten.clamp_min.default: None,
    aten.hardtanh.default: -1.0,
}


def moves(node: fx.Node) -> bool:
    """Whether results are values of what is read, moved: the results of a split are, one by one."""
    if node.target is operator.getitem:
        return cast("fx.Node", node.args[0]).target in SPLITS
    return node.target in MOVES


def keeps_grid(node: fx.Node) -> bool:
    """Whether results lie on the grid of what is read: picked values, and averages of windows (TFLite demands it).

    An average of the whole map is a mean, which may have a grid of its own.
    """
    if node.target not in _WINDOWS:
        return node.target in PICKS
    sizes = cast("fx.Node", node.args[0]).meta["val"].shape[2:]
    window = list(cast("list[int]", node.args[1]))
    return (window * len(sizes))[: len(sizes)] != list(sizes)
