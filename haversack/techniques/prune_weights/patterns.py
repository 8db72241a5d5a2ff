"""Sparsity: which weights become zero, in which pattern, and how fast while a network trains."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.folded import inference
from haversack.graph.run import is_finite
from haversack.model import Model

Tensors = Mapping[str, Tensor]

_LAYERS = ("aten.conv", "aten.linear")


@dataclass(frozen=True)
class Pattern:
    """Weights go in blocks of `rows` x `columns`; at most `kept` of every `of` columns stay (0: any number).

    Rows are a layer's outputs; columns are its inputs channel by channel, kernel position after kernel position: the
    order in which kernels for sparse matrices read them.
    """

    rows: int = 1
    columns: int = 1
    kept: int = 0
    of: int = 0

    @property
    def name(self) -> str:
        """The text that `read_pattern` reads."""
        blocks = f"{self.rows}x{self.columns}" if self.rows * self.columns > 1 else "free"
        return f"{self.kept}:{self.of}" if self.of else blocks

    @property
    def least(self) -> float:
        """The share of zeros that the pattern brings by itself."""
        return 1 - self.kept / self.of if self.of else 0.0

    def fits(self, weight: Tensor) -> bool:
        """Whether the layer's outputs and input channels fill whole blocks, or whole groups."""
        return len(weight) % self.rows == 0 and weight.shape[1] % max(self.columns, self.of) == 0


def read_pattern(text: str) -> Pattern:
    """The pattern called `free`, `2:4` (2 of 4 stay, or any other numbers) or `1x4` (blocks, outputs x inputs).

    Raises RecipeError for any other text, and for numbers that leave nothing or everything.
    """
    found = re.fullmatch(r"(\d+)([:x])(\d+)", text)
    if text == "free":
        return Pattern()
    if found:
        first, second = int(found[1]), int(found[3])
        if found[2] == ":" and 0 < first < second:
            return Pattern(kept=first, of=second)
        if found[2] == "x" and first > 0 and second > 0:
            return Pattern(first, second)
    raise RecipeError(
        f"pattern is '{text}'.", mend="write free, N:M such as 2:4 (N of M stay), or a block such as 1x4."
    )


def prunable(model: Model, *, transposed: bool = True) -> dict[str, Tensor]:
    """The weights of convolutions and linear layers that are parameters of the model's own, by name.

    Those of transposed convolutions, whose inputs come first, are left out unless `transposed`; so are those that other
    branches are merged into, in whose sums no zero would last. Raises RecipeError where one holds NaN or infinity.
    """
    own, network = dict(model.module.named_parameters(remove_duplicate=False)), inference(model)
    nodes = (node for node in network.graph.nodes if transposed or "transpose" not in str(node.target))
    found = dict.fromkeys(_weight(node) for node in nodes)
    weights = {name: own[name].detach() for name in found if name in own and name not in network.meta["merged"]}
    for name, weight in weights.items():
        if not is_finite(weight):
            raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    return weights


def _weight(node: fx.Node) -> str:
    """The name of the weight that a layer reads, or ''."""
    if node.op != "call_function" or not str(node.target).startswith(_LAYERS):
        return ""
    weight = node.args[1]
    return str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""


def reach(weights: Tensors, pattern: Pattern) -> float:
    """The largest sparsity that leaves each layer one block."""
    block = pattern.rows * pattern.columns
    return 1 - len(weights) * block / sum(weight.numel() for weight in weights.values())


def kept(scores: Tensors, pattern: Pattern, sparsity: float) -> dict[str, Tensor]:
    """True for the weights that stay when the blocks of the lowest mean scores go, all layers judged together.

    `sparsity` is the share that goes, rounded down to whole blocks; of each layer the best block stays in any case.
    What the pattern forbids goes first. Masks have the shape and the memory layout of their scores.
    """
    units = {name: _units(score, pattern) for name, score in scores.items()}
    classes = [_classes(each, pattern) for each in units.values()]
    forbidden, free = (torch.cat([each[place].flatten() for each in classes]) for place in range(2))
    flat = torch.cat([each.flatten() for each in units.values()])
    stays, count = torch.ones(len(flat), dtype=torch.bool), math.floor(sparsity * len(flat) + 1e-6)
    for candidates in (forbidden, free):
        lowest = _lowest(flat, candidates.nonzero()[:, 0], count)
        stays[lowest] = False
        count -= len(lowest)
    parts = stays.split([each.numel() for each in units.values()])
    masks = {name: part.view_as(units[name]) for name, part in zip(units, parts, strict=True)}
    return {name: _spread(masks[name], scores[name], pattern) for name in scores}


def as_matrix(weight: Tensor) -> Tensor:
    """A weight (outputs, input channels, kernel...) as (outputs, columns), input channels innermost."""
    return weight.movedim(1, -1).reshape(len(weight), -1)


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """What `as_matrix` took apart, in the shape and the memory layout of `like`."""
    whole = matrix.view(len(like), *like.shape[2:], like.shape[1]).movedim(-1, 1)
    return torch.empty_like(like, dtype=matrix.dtype).copy_(whole)


def _units(score: Tensor, pattern: Pattern) -> Tensor:
    """The mean score of each block."""
    matrix = as_matrix(score).double()
    blocks = matrix.view(len(matrix) // pattern.rows, pattern.rows, -1, pattern.columns)
    return blocks.mean((1, 3))


def _classes(units: Tensor, pattern: Pattern) -> tuple[Tensor, Tensor]:
    """Which blocks the pattern forbids, and which others may go: all but the best one."""
    forbidden = torch.zeros_like(units, dtype=torch.bool)
    if pattern.of:
        order = units.view(-1, pattern.of).argsort(dim=1, descending=True, stable=True)
        forbidden.view(-1, pattern.of).scatter_(1, order[:, pattern.kept :], True)
    free = ~forbidden
    free.view(-1)[units.masked_fill(forbidden, -math.inf).argmax()] = False
    return forbidden, free


def _lowest(scores: Tensor, places: Tensor, count: int) -> Tensor:
    """Of `places`, the `count` at which the scores are lowest, or all of them; of equal scores the first."""
    if count <= 0 or count >= len(places):
        return places[: max(count, 0)]
    found = scores[places]
    border = found.kthvalue(count).values
    below, equal = places[found < border], places[found == border]
    return torch.cat([below, equal[: count - len(below)]])


def _spread(units: Tensor, like: Tensor, pattern: Pattern) -> Tensor:
    """The blocks' mask as the weights'."""
    matrix = units.repeat_interleave(pattern.rows, 0).repeat_interleave(pattern.columns, 1)
    return as_weight(matrix, like)


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
