"""Numerics: how real numbers become few integers with little loss. Functions that the techniques share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from haversack.grid import Grid


@dataclass(frozen=True)
class Rounded:
    """Weights that lie on points of their grids, and biases that make up for the loss, named as in the folded graph."""

    tensors: Mapping[str, Tensor]
    grids: Mapping[str, Grid]
