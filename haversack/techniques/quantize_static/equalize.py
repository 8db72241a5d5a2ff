"""Equalize: channels of neighbouring layers scaled so that one step fits them all (Nagel et al. 2019, section 4.1).

Where only operations lie between two layers that commute with a positive factor, a channel may be divided by a number
after the first layer and multiplied by it in the second: the float network computes the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, Trait, traits_of
from haversack.graph.trace import arguments_of

_ROUNDS, _SETTLED = 40, 1e-3


@dataclass(frozen=True)
class Equalized:
    """The new weights and biases, and what each first layer's output channels were divided by, named by its node."""

    tensors: Mapping[str, Tensor]
    divisors: Mapping[str, Tensor]


@dataclass(frozen=True)
class _Neighbours:
    """Two layers of which the second reads each channel of the first as `spread` of its input channels."""

    first: FoldedLayer
    second: FoldedLayer
    spread: int


def equalize(folded: Folded) -> Equalized:
    """Weights whose channels span alike on both sides of each pair of layers, in the graph's names.

    Pairs are joined by nothing but ReLU, leaky ReLU, pooling, padding with zeros, cropping and flattening. A ReLU6 is a
    different function of a scaled channel, so layers that it joins are left as they are. No bias grows beyond the
    largest of its layer: scaled up, it would widen the range of the values.
    """
    pairs = list(_pairs(folded))
    names = {name for pair in pairs for layer in (pair.first, pair.second) for name in _parameters(layer)}
    tensors = {name: folded.tensor(name).detach().double() for name in names}
    divisors = {
        pair.first.node.name: torch.ones(len(tensors[pair.first.weight]), dtype=torch.float64) for pair in pairs
    }
    for _ in range(_ROUNDS):
        largest = 0.0
        for pair in pairs:
            scale = _scale(pair, tensors)
            _divide(pair, scale, tensors)
            divisors[pair.first.node.name] *= scale
            largest = max(largest, float(scale.log().abs().max()))
        if largest < _SETTLED:
            break
    return Equalized({name: each.float() for name, each in tensors.items()}, divisors)


def _pairs(folded: Folded) -> Iterator[_Neighbours]:
    ours = {layer.node: layer for layer in folded.layers()}

    def is_free(layer: FoldedLayer) -> bool:
        own = all(name in folded.writable and folded.readers[name] == 1 for name in _parameters(layer))
        return own and not layer.computes_bias

    for first in ours.values():
        pair = _next(first, ours)
        if pair and is_free(first) and is_free(pair.second):
            yield pair


def _next(first: FoldedLayer, ours: Mapping[fx.Node, FoldedLayer]) -> _Neighbours | None:
    """The layer that alone reads the first one's output through operations that commute with a positive factor."""
    node, spread, channels_last = first.node, 1, bool(traits_of(first.node) & Trait.LINEAR)
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if reader in ours:
            is_input = reader.args[0] is node and reader.args.count(node) == 1
            is_linear = bool(traits_of(reader) & Trait.LINEAR)
            fits = is_linear == (channels_last or len(node.meta["val"].shape) == 2)
            return _Neighbours(first, ours[reader], spread) if is_input and fits else None
        if reader.args[0] is not node:
            return None
        if _flattens(reader):
            spread *= math.prod(node.meta["val"].shape[2:])
        elif not (traits_of(reader) & Trait.HOMOGENEOUS or (not channels_last and _keeps_channels(reader))):
            return None
        node = reader
    return None


def _keeps_channels(node: fx.Node) -> bool:
    """Whether an operation works within each channel (dimension 1) and commutes with a positive factor."""
    rank = len(cast("fx.Node", node.args[0]).meta["val"].shape)
    traits, told = traits_of(node), arguments_of(node)
    if traits & Trait.REDUCTION:
        return bool(told["dim"]) and all(dim % rank > 1 for dim in told["dim"])
    if traits & Trait.SLICE:
        return int(told["dim"]) % rank > 1
    if traits & Trait.PAD:
        return (told["value"] or 0) == 0 and len(told["pad"]) // 2 <= rank - 2
    return bool(traits & (Trait.AVERAGE | Trait.PICK))


def _flattens(node: fx.Node) -> bool:
    """Whether the operation lines up each channel's map: (N, C, H, W) to (N, C x H x W)."""
    if not traits_of(node) & Trait.RESHAPE:
        return False
    before, after = (each.meta["val"].shape for each in (cast("fx.Node", node.args[0]), node))
    return len(after) == 2 and len(before) > 1 and after[1] == math.prod(before[1:])


def _scale(pair: _Neighbours, tensors: Mapping[str, Tensor]) -> Tensor:
    """What each channel is divided by so that both layers' weights of it become equally large."""
    ours = tensors[pair.first.weight].abs().flatten(1).amax(1)
    theirs = _span_of_inputs(pair, tensors[pair.second.weight])
    scale = (ours / theirs).sqrt()
    scale = torch.where((ours > 0) & (theirs > 0), scale, torch.ones_like(scale))
    if pair.first.bias:
        size = tensors[pair.first.bias].abs()
        scale = torch.maximum(scale, (size / size.max().clamp_min(1e-30)).clamp_max(1.0))
    return scale


def _divide(pair: _Neighbours, scale: Tensor, tensors: dict[str, Tensor]) -> None:
    first, second, bias = pair.first.weight, pair.second.weight, pair.first.bias
    tensors[first] = tensors[first] / scale.view(-1, *[1] * (tensors[first].dim() - 1))
    if bias:
        tensors[bias] = tensors[bias] / scale
    theirs, groups = tensors[second], pair.second.groups
    factors = scale.repeat_interleave(pair.spread).view(groups, 1, -1).expand(-1, len(theirs) // groups, -1)
    tensors[second] = theirs * factors.reshape(*theirs.shape[:2], *[1] * (theirs.dim() - 2))


def _span_of_inputs(pair: _Neighbours, weight: Tensor) -> Tensor:
    """The largest of the second layer's weights that each channel of the first one meets."""
    largest = weight.abs().flatten(2).amax(2) if weight.dim() > 2 else weight.abs()
    grouped = largest.reshape(pair.second.groups, -1, largest.shape[1]).amax(1)
    return grouped.view(-1, pair.spread).amax(1)


def _parameters(layer: FoldedLayer) -> list[str]:
    return [name for name in (layer.weight, layer.bias) if name]
