"""Settle: weights that were chosen on the folded graph go back into the network that they came from.

Rounding, equalization and quantization-aware training choose the weights and biases that the device computes with,
after batch norm was merged into them. Written back, the network stays the user's own class: it saves, reloads and
exports as before, and folding it again gives the chosen numbers.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.fold import Norm
from haversack.graph.inference import inference, tensor_of
from haversack.graph.merge import Merged, apart
from haversack.graph.named_tensors import named_tensors
from haversack.model import Model


def settleable(model: Model, network: fx.GraphModule) -> frozenset[str]:
    """The weights and biases of the folded graph `network` of `model` that `settle` can write back.

    Left out are weights and batch norms that layers share, weights that the network computes, and those of merged
    branches that it computes.
    """
    norms = _norms(network)
    owned = set(named_tensors(model.module))
    used = {str(node.target) for node in network.graph.find_nodes(op="get_attr")}
    readers = Counter(norm.variance for norm in norms.values())
    shared = {name for name in used & owned if any(other.startswith(f"{name}_") for other in used - owned)}
    shared |= {name for name, norm in norms.items() if readers[norm.variance] > 1}
    closed = shared | {norms[name].folded_bias for name in shared & norms.keys()}
    brought = {norm.folded_bias for weight, norm in norms.items() if weight in owned}
    merged: Mapping[str, Merged] = network.meta["merged"]
    for weight, each in merged.items():
        if not {weight, *each.zeroed} <= owned or each.bias not in {"", *owned, *brought}:
            closed |= {weight, each.bias}
    return frozenset(used & (owned | brought) - closed)


def check_settleable(model: Model, network: fx.GraphModule, names: Iterable[str]) -> None:
    """Raises RecipeError for a name that `settleable` does not list."""
    refused = set(names) - settleable(model, network)
    if refused:
        raise RecipeError(
            f"{', '.join(sorted(refused))} cannot be changed: the network computes or shares it.",
            mend="leave that layer as it is.",
        )


def settle(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """The model whose folded graph has `tensors`, named as there, for its weights and biases.

    A batch norm whose layer is written becomes one that multiplies by 1 and adds the folded bias; branches that were
    merged into a layer that is written become zero. Raises RecipeError for a name that `settleable` does not list.
    """
    network = inference(model)
    check_settleable(model, network, tensors)
    tensors = apart(network, tensors)
    module = copy.deepcopy(model.module)
    owned, wanted = named_tensors(module), dict(tensors)
    for weight, norm in _norms(network).items():
        if weight in tensors or norm.folded_bias in tensors:
            wanted[weight] = tensors.get(weight, tensor_of(network, weight))
            wanted |= _silenced(norm, tensors.get(norm.folded_bias, tensor_of(network, norm.folded_bias)), owned)
    with torch.no_grad():
        for name in wanted.keys() & owned.keys():
            owned[name].copy_(wanted[name])
    return replace(model, module=module)


def _norms(network: fx.GraphModule) -> Mapping[str, Norm]:
    norms: Mapping[str, Norm] = network.meta["norms"]
    return norms


def _silenced(norm: Norm, bias: Tensor, owned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What makes a batch norm multiply by 1, and its layer add `bias`."""
    mean, variance = owned[norm.mean], owned[norm.variance]
    wanted = {norm.mean: torch.zeros_like(mean), norm.variance: torch.full_like(variance, 1 - norm.epsilon)}
    if norm.weight is not None:
        wanted[norm.weight] = torch.ones_like(mean)
    if norm.folded_bias in owned:
        wanted[norm.folded_bias] = bias
        return wanted | ({norm.bias: torch.zeros_like(mean)} if norm.bias else {})
    return wanted | ({norm.bias: bias} if norm.bias else {norm.mean: -bias})
