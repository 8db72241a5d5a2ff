"""Inference: what a model computes on a device, folded and merged, in real numbers and on its grids."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import fx

from haversack.graph.fold import fold
from haversack.graph.folded import Folded
from haversack.graph.merge import merge
from haversack.graph.one_length import OneLength
from haversack.graph.ops import Trait, traits_of
from haversack.graph.positions import positions_of
from haversack.graph.prepare import in_weights, prepared
from haversack.graph.sizes import settle
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.wiring import free_axes, mask_of, output_names


def inference(model: Model) -> Folded:
    """The float graph that grids are named after: folded, merged, and with clamping activations before max pools.

    The normalization of bytes is in the first layers' weights, where that is exact.

    A maximum of clamped values is the clamped maximum, and only next to a layer does a clamp cost nothing. It runs at
    any length that the network takes; its nodes have the sizes of the model's example.
    """
    folded, free, mask = _folded(model), free_axes(model.module), mask_of(model.module)
    if mask is not None:
        folded = replace(folded, positions=positions_of(folded.graph, free, mask))
    if free:
        settle(folded.graph, model.example, free)
    return folded


def _folded(model: Model) -> Folded:
    """The same with free lengths."""
    folded = prepared(merge(fold(trace(model.module, model.example))))
    for node in list(folded.graph.nodes):
        if traits_of(node) & Trait.CLAMP:
            _move_before_picks(node)
    folded.module.recompile()
    return folded


def lower(model: Model) -> fx.GraphModule:
    """The graph that a model's files are written from; where the model has grids, with pairs.

    Its `meta["outputs"]` has the names of its outputs, where they have some, and `meta["free"]` the free dimensions of
    each input, which have no number in it. Where the model's inputs are filled up none is free; then
    `meta["one_length"]` says what stands around the graph, which itself still runs at any length.
    """
    folded, free = _folded(model), free_axes(model.module)
    lowered = folded.lowered(model.grids) if model.grids else in_weights(folded).module
    lowered.meta["outputs"] = output_names(model.module)
    lowered.meta["free"] = () if model.filling else free
    if model.filling is not None:
        lowered.meta["one_length"] = OneLength.of(lowered.graph, model.filling)
        settle(lowered.graph, model.example, free)
    return lowered


def _move_before_picks(clamp: fx.Node) -> None:
    """Swaps a clamp with the max pools before it that nobody else reads."""
    pick = clamp.args[0]
    while isinstance(pick, fx.Node) and traits_of(pick) & Trait.PICK and len(pick.users) == 1:
        value = cast("fx.Node", pick.args[0])
        clamp.replace_all_uses_with(pick)
        clamp.replace_input_with(pick, value)
        pick.replace_input_with(value, clamp)
        pick.prepend(clamp)
        clamp.meta = {**clamp.meta, "val": value.meta["val"]}
        pick = value
