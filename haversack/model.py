"""Model: a network, an example input, its edits and its grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor, nn

from haversack.filling import Filling
from haversack.grid import Grid

Kept = Mapping[int, tuple[int, ...]]
Setting = int | float | bool | str | tuple[int, ...]


@dataclass(frozen=True)
class Slices:
    """Tensors that keep only some of their slices: {tensor name: {dimension: indices}}."""

    kept: Mapping[str, Kept] = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """A layer of `torch.nn` or a block of the zoo as data: the name of its class and the arguments that build it."""

    kind: str
    settings: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Swap:
    """The module at `path` gives way to `layers`, one after the other; to nothing, so that its input passes through."""

    path: str
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True)
class Edits:
    """What was done to the structure of the fresh network, in order.

    Plain data, so that a changed network is saved without pickle and rebuilt onto a fresh one anywhere.
    """

    changes: tuple[Slices | Swap, ...] = ()

    def then(self, later: Edits) -> Edits:
        """These edits followed by `later`, whose indices count what these left over."""
        ours, theirs = self.changes, later.changes
        if ours and theirs and isinstance(ours[-1], Slices) and isinstance(theirs[0], Slices):
            return Edits((*ours[:-1], Slices(_followed(ours[-1].kept, theirs[0].kept)), *theirs[1:]))
        return Edits((*ours, *theirs))

    @property
    def kept(self) -> Mapping[str, Kept]:
        """Which slices are left of each tensor that is still there and lost some."""
        kept: dict[str, Kept] = {}
        for change in self.changes:
            if isinstance(change, Swap):
                inside = f"{change.path}." if change.path else ""
                kept = {name: dims for name, dims in kept.items() if not name.startswith(inside)}
            else:
                kept = _followed(kept, change.kept)
        return kept

    def __bool__(self) -> bool:
        return bool(self.changes)


def _followed(first: Mapping[str, Kept], then: Mapping[str, Kept]) -> dict[str, Kept]:
    merged: dict[str, dict[int, tuple[int, ...]]] = {name: dict(dims) for name, dims in first.items()}
    for name, dims in then.items():
        ours = merged.setdefault(name, {})
        for dim, indices in dims.items():
            ours[dim] = tuple(ours[dim][index] for index in indices) if dim in ours else indices
    return dict(merged)


class Target(Protocol):
    """Where a step tries what it considers: the device's runtime, on exported files."""

    def latencies_ms(self, models: Sequence[Model]) -> list[float]:
        """The median latency of each model's exported file, one sample, all timed in alternation."""
        ...

    def flash_bytes(self, model: Model) -> int:
        """The size of the model's exported file."""
        ...


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode, one example input (batch of 1), its structural edits and its grids.

    `grids` names tensors of the folded graph (see graph/folded.py) and is empty while everything is float.
    `sparse` names the weights whose zeros were put there by pruning: later steps leave them zero. `teacher` is the
    network as the user handed it in; steps that train learn from it. `target` tries candidates on the device's runtime;
    without one, steps that choose by measuring count instead. `notes` is what its making said that its user must know.
    With `filling` its files have the example's length, and shorter inputs are filled up to it.
    """

    module: nn.Module
    example: tuple[Tensor, ...]
    edits: Edits = field(default_factory=Edits)
    grids: Mapping[str, Grid] = field(default_factory=dict)
    sparse: frozenset[str] = frozenset()
    teacher: nn.Module | None = None
    target: Target | None = None
    notes: tuple[str, ...] = ()
    filling: Filling | None = None

    def with_module(self, module: nn.Module, edits: Edits | None = None) -> Model:
        """This model with another network; its edits follow ours."""
        sparse = self.sparse & dict(module.named_parameters(remove_duplicate=False)).keys()
        return replace(self, module=module, sparse=sparse, edits=self.edits.then(edits) if edits else self.edits)

    def as_files_take(self, batches: Sequence[tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
        """The inputs as its files are given them: what stands in files has to be told from these."""
        return list(batches) if self.filling is None else [self.filling.filled(batch) for batch in batches]

    @property
    def number_format(self) -> str:
        """What values are computed in: float32, int8, or int16 for activations of more than 8 bits."""
        bits = [grid.bits for grid in self.grids.values() if grid.axis is None]
        if not bits:
            return "float32"
        return "int16" if max(bits) > 8 else "int8"

    @property
    def weight_bits(self) -> int:
        """The most bits that a weight has which is multiplied in integers; 0 where none is."""
        if self.number_format == "float32":
            return 0
        return max((grid.bits for grid in self.grids.values() if grid.axis is not None), default=8)
