"""Lower: the graph that a model's files are written from."""

from __future__ import annotations

from typing import cast

from torch import fx

from haversack.graph.inference import inference
from haversack.graph.operations import LAYERS
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


def quantized_layers(lowered: fx.GraphModule) -> int:
    """How many layers read integers, multiply them by integers and give integers."""
    return sum(
        node.target in LAYERS
        and all(isinstance(each, fx.Node) and each.target in _DEQUANTIZE for each in node.args[:2])
        and _is_rounded(node)
        for node in lowered.graph.nodes
    )


_QUANTIZE = pairs.quantize_per_tensor.default
_DEQUANTIZE = {pairs.dequantize_per_tensor.default, pairs.dequantize_per_channel.default}


def _is_rounded(layer: fx.Node) -> bool:
    """Whether all that reads the layer's outputs, or those of the one activation that follows, rounds them first."""
    readers = list(layer.users)
    if len(readers) == 1 and readers[0].target is not _QUANTIZE:
        readers = list(readers[0].users)
    return bool(readers) and all(reader.target is _QUANTIZE for reader in readers)
