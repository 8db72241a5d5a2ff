"""Writer: linear layers and ReLUs become JSON."""

import json
from operator import attrgetter

import torch

from haversack.errors import ExportError
from haversack.graph.trace import layer_path

aten = torch.ops.aten


def write(lowered) -> bytes:
    layers = []
    for node in lowered.graph.nodes:
        if node.target is aten.linear.default:
            weight, bias = (attrgetter(each.target)(lowered).tolist() for each in node.args[1:3])
            layers.append({"weight": weight, "bias": bias})
        elif node.target is aten.relu.default:
            layers.append({})
        elif node.op == "call_function":
            raise ExportError(f"it knows no {node.target}.", where=layer_path(node), mend="choose another runtime.")
    return json.dumps({"plain": layers}).encode()
