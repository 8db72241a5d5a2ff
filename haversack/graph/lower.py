"""Lower: the graph that a model's files are written from."""

from __future__ import annotations

from typing import cast

from torch import fx

from haversack.graph.inference import inference
from haversack.graph.qdq import insert, pairs
from haversack.model import Model


def lower(model: Model) -> fx.GraphModule:
    """The graph that a model's files are written from; where the model has grids, with pairs."""
    network = inference(model)
    return insert(network, model.grids) if model.grids else network


def output_step(lowered: fx.GraphModule) -> float | None:
    """The step of the grid that the graph's output lies on; None where it is float."""
    output = lowered.graph.output_node().args[0]
    if isinstance(output, fx.Node) and output.target is pairs.dequantize_per_tensor.default:
        return cast("float", output.args[1])
    return None
