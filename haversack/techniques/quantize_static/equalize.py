"""Equalize: channels of neighbouring layers scaled so that one step fits them all (Nagel et al. 2019, section 4.1).

Where only operations lie between two layers that commute with a positive factor, a channel may be divided by a number
after the first layer and multiplied by it in the second: the float network computes the same.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.folded import tensor_of
from haversack.graph.ops import layers

aten = torch.ops.aten

_ELEMENTWISE = {aten.relu.default, aten.leaky_relu.default}
_SPATIAL = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec),
}
_REDUCTIONS = {aten.mean.dim, aten.amax.default}
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_RESHAPES = {aten.view.default, aten.reshape.default, aten.flatten.using_ints}
_ROUNDS, _SETTLED = 40, 1e-3


@dataclass(frozen=True)
class Equalized:
    """The new weights and biases, and what each first layer's output channels were divided by, named by its node."""

    tensors: Mapping[str, Tensor]
    divisors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Pair:
    """Two layers of which the second reads each channel of the first as `spread` of its input channels."""

    first: fx.Node
    second: fx.Node
    spread: int


def equalize(network: fx.GraphModule, *, writable: Collection[str]) -> Equalized:
    """Weights whose channels span alike on both sides of each pair of layers, in the graph's names.

    Pairs are joined by nothing but ReLU, leaky ReLU, pooling, padding with zeros, cropping and flattening. A ReLU6 is a
    different function of a scaled channel, so layers that it joins are left as they are. No bias grows beyond the
    largest of its layer: scaled up, it would widen the range of the values.
    """
    pairs = list(_pairs(network, writable))
    names = {name for pair in pairs for layer in (pair.first, pair.second) for name in _parameters(layer)}
    tensors = {name: tensor_of(network, name).detach().double() for name in names}
    divisors = {pair.first.name: torch.ones(len(tensors[_weight(pair.first)]), dtype=torch.float64) for pair in pairs}
    for _ in range(_ROUNDS):
        largest = 0.0
        for pair in pairs:
            scale = _scale(pair, tensors)
            _divide(pair, scale, tensors)
            divisors[pair.first.name] *= scale
            largest = max(largest, float(scale.log().abs().max()))
        if largest < _SETTLED:
            break
    return Equalized({name: each.float() for name, each in tensors.items()}, divisors)


def _pairs(network: fx.GraphModule, writable: Collection[str]) -> Iterator[_Pair]:
    ours = {node: None for node, _ in layers(network)}
    readers = Counter(str(node.target) for node in network.graph.find_nodes(op="get_attr") for _ in node.users)

    def is_free(layer: fx.Node) -> bool:
        return all(name in writable and readers[name] == 1 for name in _parameters(layer))

    for first in ours:
        pair = _next(first, ours)
        if pair and is_free(first) and is_free(pair.second):
            yield pair


def _next(first: fx.Node, ours: Collection[fx.Node]) -> _Pair | None:
    """The layer that alone reads the first one's output through operations that commute with a positive factor."""
    node, spread, channels_last = first, 1, first.target is aten.linear.default
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if reader in ours:
            is_input = reader.args[0] is node and reader.args.count(node) == 1
            fits = (reader.target is aten.linear.default) == (channels_last or len(node.meta["val"].shape) == 2)
            return _Pair(first, reader, spread) if is_input and fits else None
        if reader.args[0] is not node:
            return None
        if _flattens(reader):
            spread *= math.prod(node.meta["val"].shape[2:])
        elif not (reader.target in _ELEMENTWISE or (not channels_last and _keeps_channels(reader))):
            return None
        node = reader
    return None


def _keeps_channels(node: fx.Node) -> bool:
    """Whether an operation works within each channel (dimension 1) and commutes with a positive factor."""
    rank = len(cast("fx.Node", node.args[0]).meta["val"].shape)
    if node.target in _REDUCTIONS:
        return len(node.args) > 1 and all(dim % rank > 1 for dim in cast("list[int]", node.args[1]))
    if node.target is aten.slice.Tensor:
        return len(node.args) > 1 and cast("int", node.args[1]) % rank > 1
    if node.target in _PADS:
        value = node.args[-1] if isinstance(node.args[-1], int | float) else 0.0
        return value == 0 and len(cast("list[int]", node.args[1])) // 2 <= rank - 2
    return node.target in _SPATIAL


def _flattens(node: fx.Node) -> bool:
    """Whether the operation lines up each channel's map: (N, C, H, W) to (N, C x H x W)."""
    if node.target not in _RESHAPES:
        return False
    before, after = (each.meta["val"].shape for each in (cast("fx.Node", node.args[0]), node))
    return len(after) == 2 and len(before) > 1 and after[1] == math.prod(before[1:])


def _scale(pair: _Pair, tensors: Mapping[str, Tensor]) -> Tensor:
    """What each channel is divided by so that both layers' weights of it become equally large."""
    ours = tensors[_weight(pair.first)].abs().flatten(1).amax(1)
    theirs = _span_of_inputs(pair, tensors[_weight(pair.second)])
    scale = (ours / theirs).sqrt()
    scale = torch.where((ours > 0) & (theirs > 0), scale, torch.ones_like(scale))
    bias = _bias(pair.first)
    if bias:
        size = tensors[bias].abs()
        scale = torch.maximum(scale, (size / size.max().clamp_min(1e-30)).clamp_max(1.0))
    return scale


def _divide(pair: _Pair, scale: Tensor, tensors: dict[str, Tensor]) -> None:
    first, second, bias = _weight(pair.first), _weight(pair.second), _bias(pair.first)
    tensors[first] = tensors[first] / scale.view(-1, *[1] * (tensors[first].dim() - 1))
    if bias:
        tensors[bias] = tensors[bias] / scale
    theirs, groups = tensors[second], _groups(pair.second)
    factors = scale.repeat_interleave(pair.spread).view(groups, 1, -1).expand(-1, len(theirs) // groups, -1)
    tensors[second] = theirs * factors.reshape(*theirs.shape[:2], *[1] * (theirs.dim() - 2))


def _span_of_inputs(pair: _Pair, weight: Tensor) -> Tensor:
    """The largest of the second layer's weights that each channel of the first one meets."""
    largest = weight.abs().flatten(2).amax(2) if weight.dim() > 2 else weight.abs()
    grouped = largest.reshape(_groups(pair.second), -1, largest.shape[1]).amax(1)
    return grouped.view(-1, pair.spread).amax(1)


def _groups(layer: fx.Node) -> int:
    return cast("int", layer.args[6]) if layer.target is not aten.linear.default and len(layer.args) > 6 else 1


def _parameters(layer: fx.Node) -> list[str]:
    return [name for name in (_weight(layer), _bias(layer)) if name]


def _weight(layer: fx.Node) -> str:
    return str(cast("fx.Node", layer.args[1]).target)


def _bias(layer: fx.Node) -> str:
    bias = layer.args[2] if len(layer.args) > 2 else None
    return str(bias.target) if isinstance(bias, fx.Node) else ""
