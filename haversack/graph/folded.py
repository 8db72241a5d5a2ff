"""Inference: the folded and merged float graph that grids are named after, and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, fx

from haversack.graph.fold import fold
from haversack.graph.merge import merge
from haversack.graph.ops import CLAMPS, PICKS
from haversack.graph.trace import trace
from haversack.model import Model


def inference(model: Model) -> fx.GraphModule:
    """The float graph that grids are named after: folded, merged, and with clamping activations before max pools.

    A maximum of clamped values is the clamped maximum, and only next to a layer does a clamp cost nothing.
    """
    network = merge(fold(trace(model.module, model.example)))
    for node in list(network.graph.nodes):
        if node.target in CLAMPS:
            _move_before_picks(node)
    network.recompile()
    return network


def tensor_of(network: fx.GraphModule, name: str) -> Tensor:
    """The weight or constant called `name`."""
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(owner), leaf)
    return tensor


def with_tensors(network: fx.GraphModule, tensors: Mapping[str, Tensor]) -> fx.GraphModule:
    """The graph with `tensors` in place of the weights and biases of that name; all others are shared with it."""
    names = {str(node.target) for node in network.graph.find_nodes(op="get_attr")}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    changed = fx.GraphModule({name: tensors.get(name, tensor_of(network, name)) for name in names}, graph, "Folded")
    changed.meta.update(network.meta)
    return changed


def _move_before_picks(clamp: fx.Node) -> None:
    """Swaps a clamp with the max pools before it that nobody else reads."""
    pick = clamp.args[0]
    while isinstance(pick, fx.Node) and pick.target in PICKS and len(pick.users) == 1:
        value = cast("fx.Node", pick.args[0])
        clamp.replace_all_uses_with(pick)
        clamp.replace_input_with(pick, value)
        pick.replace_input_with(value, clamp)
        pick.prepend(clamp)
        clamp.meta = {**clamp.meta, "val": value.meta["val"]}
        pick = value
