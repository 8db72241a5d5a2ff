"""Row by row: what layers round as it comes, with a step for each row in place of one for all of it."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from haversack.graph.pairs import pairs
from haversack.graph.recurrent import ROUNDED_ROWS
from haversack.graph.run import named_tensors
from haversack.graph.unroll import unrolled

_LSTM = torch.ops.haversack.lstm_as_it_comes.default


def row_by_row(lowered: fx.GraphModule) -> fx.GraphModule:
    """The graph in which each row that is rounded as it comes lies on 8 bits that span it and zero.

    LSTMs that round what they read are layers that do so, step by step. It is the graph itself where nothing is rounded
    so.
    """
    if any(node.target is _LSTM for node in lowered.graph.nodes):
        lowered = unrolled(lowered)
    if not rounds_at_once(lowered):
        return lowered
    graph = fx.Graph()
    graph.output(graph.graph_copy(lowered.graph, {}))
    for node in list(graph.nodes):
        if node.target is pairs.dequantize_per_tensor.tensor:
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
    """Whether something is rounded as it comes with one step for all of it."""
    return any(node.target in (pairs.dequantize_per_tensor.tensor, _LSTM) for node in lowered.graph.nodes)


def _value(real: fx.Node) -> fx.Node:
    """The value that a pair rounds."""
    return cast("fx.Node", cast("fx.Node", real.args[0]).args[0])
