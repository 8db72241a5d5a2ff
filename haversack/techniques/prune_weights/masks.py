"""Masks: which weights become zero, those that matter least, and a network in which they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.inference import inference
from haversack.graph.ops import Trait, traits_of
from haversack.graph.run import is_finite
from haversack.graph.trace import arguments_of
from haversack.model import Model

Tensors = Mapping[str, Tensor]


def prunable(model: Model) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers that are parameters of the model's own, by name.

    Those that other branches are merged into are left out: no zero would last in their sums. Raises RecipeError where
    one holds NaN or infinity.
    """
    own, folded = dict(model.module.named_parameters(remove_duplicate=False)), inference(model)
    found = dict.fromkeys(_weight(node) for node in folded.graph.nodes)
    weights = {name: own[name].detach() for name in found if name in own and name not in folded.merged}
    for name, weight in weights.items():
        if not is_finite(weight):
            raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    return weights


def _weight(node: fx.Node) -> str:
    """The name of the weight that a layer reads, or ''."""
    if not traits_of(node) & Trait.LAYER:
        return ""
    weight = arguments_of(node)["weight"]
    return str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""


def reach(weights: Tensors) -> float:
    """The largest sparsity that leaves each layer one weight."""
    return 1 - len(weights) / sum(weight.numel() for weight in weights.values())


def kept(scores: Tensors, sparsity: float) -> dict[str, Tensor]:
    """True for the weights that stay when those of the lowest scores go, all layers judged together.

    `sparsity` is the share that goes, rounded down to whole weights; of each layer the best stays in any case. Masks
    have the shape and the memory layout of their scores.
    """
    flat = torch.cat([score.flatten() for score in scores.values()])
    stays, may_go = torch.ones_like(flat, dtype=torch.bool), torch.ones_like(flat, dtype=torch.bool)
    sizes = [score.numel() for score in scores.values()]
    for part, score in zip(may_go.split(sizes), scores.values(), strict=True):
        part[score.argmax()] = False
    stays[_lowest(flat, may_go.nonzero()[:, 0], math.floor(sparsity * len(flat) + 1e-6))] = False
    parts = zip(scores.items(), stays.split(sizes), strict=True)
    return {name: torch.empty_like(like, dtype=torch.bool).copy_(part.view(like.shape)) for (name, like), part in parts}


def _lowest(scores: Tensor, places: Tensor, count: int) -> Tensor:
    """Of `places`, the `count` at which the scores are lowest, or all of them; of equal scores the first."""
    if count <= 0 or count >= len(places):
        return places[: max(count, 0)]
    found = scores[places]
    border = found.kthvalue(count).values
    below, equal = places[found < border], places[found == border]
    return torch.cat([below, equal[: count - len(below)]])


def masked(model: Model, masks: Tensors) -> Model:
    """The model whose weights are zero where their mask is False, and stay so in every later step.

    `masks` holds booleans in the shape of the parameter of that name. Raises RecipeError for other names and shapes.
    """
    own = dict(model.module.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        _check_mask(name, mask, own)
    module = copy.deepcopy(model.module)
    new = dict(module.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, mask in masks.items():
            new[name].masked_fill_(~mask, 0.0)
    return replace(model, module=module, sparse=model.sparse | masks.keys())


def _check_mask(name: str, mask: Tensor, own: Tensors) -> None:
    if name not in own:
        raise RecipeError(
            f"the network has no weight '{name}'.",
            mend=f"its weights: {', '.join(key for key in own if own[key].dim() > 1)}.",
        )
    if mask.shape != own[name].shape:
        raise RecipeError(
            f"the mask of '{name}' has the shape {tuple(mask.shape)}, the weight {tuple(own[name].shape)}.",
            mend="give a mask one boolean a weight.",
        )
    if mask.dtype != torch.bool:
        raise RecipeError(f"the mask of '{name}' holds {mask.dtype}.", mend="write True where a weight stays.")
