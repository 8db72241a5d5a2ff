"""Blocks: the kinds that may take a convolution's place, what each loses, and a network with them in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.model import Edits, Layer, Swap
from haversack.surgery.edit import edit
from haversack.techniques._exchange import Choice
from haversack.techniques.replace_blocks import grouped


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


Kind = Literal["separable", "grouped", "shuffle"]


def suits(geometry: Geometry) -> bool:
    """Whether the layer is an ordinary convolution: one whose kernel reads more than one pixel."""
    return geometry.pixels > 1


def ladder(geometry: Geometry) -> Iterator[Choice]:
    """Blocks of every kind, of ever smaller cost."""
    for shape in grouped.ladder(geometry):
        yield Choice(_kind(geometry, shape), (shape.inputs, shape.outputs, shape.rank), shape.layers(geometry))


def loss(problem: Problem, choice: Choice) -> float:
    """The share of the layer's output power that the block loses at first."""
    return problem.error(grouped.fitted(problem, grouped.Shape(*choice.ranks)).weight(problem))


def replacement(problem: Problem, choice: Choice) -> Replacement:
    """The block with its first numbers."""
    fit = grouped.fitted(problem, grouped.Shape(*choice.ranks))
    state = {name: tensor.float() for name, tensor in fit.state(problem).items()}
    return Replacement(choice.layers, state)


def _kind(geometry: Geometry, shape: grouped.Shape) -> Kind:
    if shape.outputs > 1:
        return "shuffle"
    return "separable" if shape.inputs == geometry.inputs else "grouped"
