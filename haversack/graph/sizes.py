"""Sizes: free lengths of a traced graph become those of an example, for all that counts and reckons with numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from haversack.lengths import Axes

Numbers = Mapping[Any, int]
"""What free sizes are, by torch's symbols for them."""


def settle(graph: fx.Graph, example: Sequence[Tensor], free: Sequence[Axes]) -> None:
    """Lets all nodes have the sizes that they have where the free lengths are those of `example`.

    The batch stays free, and so does what the graph computes: it runs at any length as before.
    """
    nodes = list(graph.find_nodes(op="placeholder"))[-len(example) :]  # weights that are inputs come first
    lengths = {
        size.node.expr: value.shape[dim]
        for node, value, axes in zip(nodes, example, free, strict=True)
        for dim, _ in axes
        if isinstance(size := node.meta["val"].shape[dim], torch.SymInt)
    }
    for node in graph.nodes:
        if "val" in node.meta:
            node.meta = {**node.meta, "val": tree_map(lambda value: _settled(value, lengths), node.meta["val"])}


def _settled(value: Any, lengths: Numbers) -> Any:  # noqa: ANN401 - whatever an operation gives
    if isinstance(value, Tensor):
        sizes = [_settled(size, lengths) for size in value.shape]
        same = all(one is other for one, other in zip(sizes, value.shape, strict=True))
        return value if same else value.new_empty(sizes)
    if isinstance(value, torch.SymInt) and value.node.expr.free_symbols & lengths.keys():
        expression = value.node.expr.subs(lengths)
        return (
            int(expression) if expression.is_Integer else value.node.shape_env.create_symintnode(expression, hint=None)
        )
    return value
