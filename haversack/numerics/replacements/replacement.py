"""Replacement: a block with its numbers, and a network with blocks in the place of some of its layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haversack.graph.surgery import edit
from haversack.model import Edits, Layer, Swap


@dataclass(frozen=True)
class Replacement:
    """Layers, one after the other, and what they hold, named as in the state of what a Swap makes of them."""

    layers: tuple[Layer, ...]
    state: Mapping[str, Tensor]


def with_replacements(module: nn.Module, replacements: Mapping[str, Replacement]) -> tuple[nn.Module, Edits]:
    """A copy of `module` with each replacement in the place of the layer at its path, and the edits that did it."""
    edits = Edits(tuple(Swap(path, each.layers) for path, each in replacements.items()))
    new = edit(module, edits)
    with torch.no_grad():
        for path, each in replacements.items():
            new.get_submodule(path).load_state_dict(dict(each.state))
    return new, edits
