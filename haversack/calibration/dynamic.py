"""Grids of layers that round what they read as it comes: those of their weights, of embeddings, and of what is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from haversack.calibration.ranges import limits_of_least_error
from haversack.errors import RecipeError
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, Trait, products, traits_of
from haversack.graph.run import is_finite
from haversack.grid import DYNAMIC, Grid, halved, symmetric

_SHARES = tuple(share / 100 for share in range(100, 79, -2))
_STEPS_AN_OCTAVE, _MOST_STEPS = 32, 256
_BITS = 8


def linear_layers(folded: Folded) -> tuple[FoldedLayer, ...]:
    """What multiplies rows by a weight: linear layers and products by constants."""
    linear = (layer for layer in folded.layers() if traits_of(layer.node) & Trait.LINEAR)
    return (*linear, *products(folded.graph))


def dynamic_grids(folded: Folded, bits: Mapping[str, int]) -> dict[str, Grid]:
    """The grids of all linear layers and embeddings, by so many bits a weight (else 8), and of what they read.

    A weight that a layer shares with an embedding has the layer's grid. Raises RecipeError for weights that are not
    finite.
    """
    layers = linear_layers(folded)
    rows = {each.weight: row_grid(folded, each.weight, bits.get(each.weight, _BITS)) for each in folded.lookups()}
    columns = {each.weight: step_grid(folded, each.weight, each.axis, bits.get(each.weight, _BITS)) for each in layers}
    return {**dict.fromkeys((layer.reads for layer in layers), DYNAMIC), **rows, **columns}


def step_grid(folded: Folded, name: str, axis: int, bits: int) -> Grid:
    """That of a weight: a step of least squared error a slice along `axis`, which float16 holds."""
    return _grid(folded, name, axis, bits, halved)


def row_grid(folded: Folded, name: str, bits: int) -> Grid:
    """That of an embedding: a step a row, of so few that a byte tells which."""
    return _grid(folded, name, 0, bits, _few)


def _grid(folded: Folded, name: str, axis: int, bits: int, short: Callable[[Tensor], Tensor]) -> Grid:
    weight = folded.tensor(name)
    if not is_finite(weight):
        raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    limits = limits_of_least_error(weight.detach().transpose(0, axis).flatten(1), bits, _SHARES)
    grid = symmetric(limits, axis=axis, bits=bits)
    return replace(grid, scale=tuple(short(torch.tensor(grid.scale)).tolist()))


def _few(steps: Tensor) -> Tensor:
    """The nearest of so few numbers that a byte tells which: some per cent apart from one another."""
    places = (steps.log2() * _STEPS_AN_OCTAVE).round()
    return (places / _STEPS_AN_OCTAVE).exp2() if places.max() - places.min() < _MOST_STEPS else halved(steps)
