"""Row by row: what layers round as it comes, with a step for each row in place of one for all of it."""

from __future__ import annotations

from typing import Any, cast

from torch import fx

from haversack.graph.pairs import pairs
from haversack.graph.recurrent import ROUNDED_ROWS, rounds_step_by_step
from haversack.graph.run import named_tensors
from haversack.graph.unroll import unrolled

_PAIR = pairs.dequantize_per_tensor.tensor


def row_by_row(lowered: fx.GraphModule) -> fx.GraphModule:
    """The graph in which each row that is rounded as it comes lies on 8 bits that span it and zero.

    Recurrent layers that round what they read are layers that do so, step by step. It is the graph itself where nothing
    is rounded so.
    """
    lowered = unrolled(lowered, rounding=True)
    if not any(node.target is _PAIR for node in lowered.graph.nodes):
        return lowered
    graph = fx.Graph()
    graph.output(graph.graph_copy(lowered.graph, {}))
    for node in [each for each in graph.nodes if each.target is _PAIR]:
        with graph.inserting_before(node):
            rows = graph.call_function(ROUNDED_ROWS, (_value(node),))
        rows.meta = dict(node.meta)
        node.replace_all_uses_with(rows)
    graph.eliminate_dead_code()
    tensors = named_tensors(lowered)
    used: dict[str, Any] = {str(node.target): tensors[str(node.target)] for node in graph.find_nodes(op="get_attr")}
    rounded = fx.GraphModule(used, graph, "RowByRow")
    rounded.meta = dict(lowered.meta)
    return rounded


def rounds_at_once(lowered: fx.GraphModule) -> bool:
    """Whether something is not rounded row by row that would be: it has one step for all of it, or is not rounded."""
    return any(node.target is _PAIR or rounds_step_by_step(node) for node in lowered.graph.nodes)


def _value(real: fx.Node) -> fx.Node:
    """The value that a pair rounds."""
    return cast("fx.Node", cast("fx.Node", real.args[0]).args[0])
