"""Unfold: weights chosen on the folded graph go back in front of their batch norms, which stay as they learn.

`settle` writes the numbers that a device computes with, and turns each batch norm into one that multiplies by 1. A
network that trains on needs its batch norms as they are: here the weight is divided by their scale, and only the mean
that they subtract follows.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from haversack.graph.fold import Norm
from haversack.graph.inference import inference, tensor_of
from haversack.graph.merge import apart
from haversack.graph.named_tensors import named_tensors
from haversack.graph.settle import check_settleable
from haversack.model import Model


def unfold(model: Model, tensors: Mapping[str, Tensor]) -> Model:
    """The model whose folded graph has `tensors`, named as there, for its weights and biases, up to float rounding.

    Zeros stay exactly zero. For convolutions and linear layers; a channel whose batch norm multiplies by nothing keeps
    its statistics. Raises RecipeError for a name that `settleable` does not list.
    """
    network = inference(model)
    check_settleable(model, network, tensors)
    tensors = apart(network, tensors)
    module = copy.deepcopy(model.module)
    own = named_tensors(module)
    norms: Mapping[str, Norm] = network.meta["norms"]
    wanted = {name: tensor for name, tensor in tensors.items() if name in own}
    for weight, norm in norms.items():
        if weight in tensors or norm.folded_bias in tensors:
            bias = tensors.get(norm.folded_bias, tensor_of(network, norm.folded_bias))
            wanted |= _before(norm, weight, tensors.get(weight), bias, own)
    with torch.no_grad():
        for name, tensor in wanted.items():
            own[name].copy_(tensor)
    return replace(model, module=module)


def _before(
    norm: Norm, weight: str, folded: Tensor | None, bias: Tensor, own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weight in front of its batch norm, and the mean with which that adds `bias`; the layer's own bias stays."""
    variance = own[norm.variance].double()
    scale = (own[norm.weight].double() if norm.weight else torch.ones_like(variance)) / (variance + norm.epsilon).sqrt()
    shift = own[norm.bias].double() if norm.bias else torch.zeros_like(variance)
    before = own[norm.folded_bias].double() if norm.folded_bias in own else torch.zeros_like(variance)
    live = scale.abs() > 1e-12
    mean = before + (shift - bias.double()) / torch.where(live, scale, 1.0)
    wanted = {norm.mean: torch.where(live, mean, own[norm.mean].double())}
    if norm.folded_bias in own:
        wanted[norm.folded_bias] = before
    if folded is not None:
        rows = (-1, *[1] * (folded.dim() - 1))
        unscaled = folded.double() / torch.where(live, scale, 1.0).view(rows)
        wanted[weight] = torch.where(live.view(rows) | (folded == 0), unscaled, own[weight].double())
    return wanted
