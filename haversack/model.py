"""Model: a network, an example input, its edits and its grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from haversack.grid import Grid

Kept = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Edits:
    """Which slices of which tensors of the fresh network are kept: {tensor name: {dimension: indices}}.

    Plain data, so that a pruned network is saved without pickle and rebuilt onto a fresh one anywhere.
    """

    kept: Mapping[str, Kept] = field(default_factory=dict)

    def then(self, later: Edits) -> Edits:
        """These edits followed by `later`, whose indices count what these left over."""
        merged: dict[str, dict[int, tuple[int, ...]]] = {name: dict(dims) for name, dims in self.kept.items()}
        for name, dims in later.kept.items():
            ours = merged.setdefault(name, {})
            for dim, indices in dims.items():
                ours[dim] = tuple(ours[dim][index] for index in indices) if dim in ours else indices
        return Edits(merged)

    def __bool__(self) -> bool:
        return bool(self.kept)


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode, one example input (batch of 1), its structural edits and its grids.

    `grids` names tensors of the folded graph (see graph/quantized.py) and is empty while everything is float.
    `teacher` is the network as the user handed it in; steps that train learn from it.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    edits: Edits = field(default_factory=Edits)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    teacher: nn.Module | None = None

    def with_module(self, module: nn.Module, edits: Edits | None = None) -> Model:
        """This model with another network; its edits follow ours."""
        return replace(self, module=module, edits=self.edits.then(edits) if edits else self.edits)

    @property
    def number_format(self) -> str:
        """What values are computed in: float32, int8, or int16 for activations of more than 8 bits."""
        bits = [grid.bits for grid in self.grids.values() if grid.axis is None]
        if not bits:
            return "float32"
        return "int16" if max(bits) > 8 else "int8"
