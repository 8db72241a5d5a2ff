"""Scale: how large the weights before a batch norm are, which changes nothing that the network computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from haversack.graph.fold import Norm
from haversack.graph.quantized import inference
from haversack.graph.settle import settleable
from haversack.model import Model


def as_large_as(model: Model, original: Model) -> Model:
    """A model that computes what `model` does, its weights before batch norms as large as `original`'s.

    Such a layer's scale cancels out, but the step that training takes does not: relative to the weights it grows with
    the square of how small they are (van Laarhoven 2017). What was fitted on the folded network has taken the batch
    norm's scale in, and is a third as large as it was in a ResNet: the learning rate that suited the original would be
    ten times too high. Weights that `original` lacks, and those that are all zero, keep their size.
    """
    network = inference(model)
    norms: Mapping[str, Norm] = network.meta["norms"]
    module, sizes = copy.deepcopy(model.module), _tensors(original.module)
    owned = _tensors(module)
    with torch.no_grad():
        for weight in norms.keys() & sizes.keys() & owned.keys() & settleable(model, network):
            _rescale(owned, weight, norms[weight], _size(sizes[weight]))
    return replace(model, module=module)


def _rescale(owned: Mapping[str, Tensor], weight: str, norm: Norm, wanted: float) -> None:
    now = _size(owned[weight])
    factor = wanted / now if now else 0.0
    variance = (owned[norm.variance] + norm.epsilon) * factor**2 - norm.epsilon
    if 0 < factor < _MOST and bool((variance >= 0).all()):
        owned[norm.variance].copy_(variance)
        owned[weight].mul_(factor)
        owned[norm.mean].mul_(factor)
        if norm.folded_bias in owned:
            owned[norm.folded_bias].mul_(factor)


_MOST = 1e4


def _size(weight: Tensor) -> float:
    return float(weight.square().mean().sqrt())


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
