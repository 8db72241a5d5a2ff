"""Absorb: what dead channels added goes into the weights, biases and batch norms of the layers that read them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from haversack.graph.run import named_tensors
from haversack.model import Edits, Layer, Setting, Slices, Swap
from haversack.surgery.edit import edit
from haversack.techniques.prune_dead_channels.search import Dead, Reals, SeenLayer

_SIZES = ("kernel_size", "stride", "padding", "output_padding", "dilation", "groups", "padding_mode")


@dataclass(frozen=True)
class _Change:
    """What one layer takes over: `weights` to be added to its carriers' columns, `shift` to its outputs."""

    place: SeenLayer
    columns: tuple[int, ...]
    weights: Tensor
    shift: Tensor


def absorb(module: nn.Module, dead: Dead) -> tuple[nn.Module, Edits]:
    """A copy of `module` in which nothing reads the channels that are to go, and the layers put into it.

    Its outputs are those of `module`.
    """
    changes = [change for place in dead.places if (change := _change(place, dead, module))]
    edits = Edits(tuple(_with_bias(path, module) for path in dict.fromkeys(_without_bias(changes))))
    changed = edit(module, edits)
    tensors = named_tensors(changed)
    with torch.no_grad():
        for path in _without_bias(changes):
            tensors[f"{path}.weight"].copy_(module.get_parameter(f"{path}.weight"))
        for change in changes:
            _write(change, tensors)
        for place in dead.places:
            gone = [column for column, root in enumerate(place.read.channels.tolist()) if root in dead.gone]
            place.read.columns(tensors[place.read.weight])[gone] = 0.0
    return changed, edits


def with_new_biases(slices: Edits, layers: Edits) -> Edits:
    """`slices` that cut the biases of the layers put in like their weights' rows, which no group knows."""
    kept = dict(slices.kept)
    for change in layers.changes:
        rows = kept.get(f"{change.path}.weight", {}).get(0) if isinstance(change, Swap) else None
        if isinstance(change, Swap) and rows is not None:
            kept[f"{change.path}.bias"] = {0: rows}
    return Edits((Slices(kept),))


def _change(place: SeenLayer, dead: Dead, module: nn.Module) -> _Change | None:
    """What the place takes over from the channels it loses; None where that is nothing."""
    roots = place.read.channels.tolist()
    gone = [column for column, root in enumerate(roots) if root in dead.gone and place.frozen[column]]
    carriers = [column for column, root in enumerate(roots) if root in dead.carriers and place.frozen[column]]
    if not place.open or not gone:
        return None
    shares, constants = _shares(place.maps[gone], place.maps[carriers], constant=place.shift is not None)
    columns = place.read.columns(named_tensors(module)[place.read.weight].detach().double())
    lost = columns[gone]
    weights = torch.einsum("gk,gr...->kr...", torch.from_numpy(shares), lost)
    shift = torch.from_numpy(constants) @ lost.reshape(*lost.shape[:2], -1).sum(2)
    return _Change(place, tuple(carriers), weights, shift) if bool(weights.any() or shift.any()) else None


def _shares(maps: Reals, carriers: Reals, *, constant: bool) -> tuple[Reals, Reals]:
    """The sums of the carriers and of a constant that `maps` are: (maps, carriers) and (maps,)."""
    basis = np.concatenate([carriers, np.ones((int(constant), maps.shape[1]))])
    found = np.linalg.lstsq(basis.T, maps.T, rcond=None)[0].T
    return found[:, : len(carriers)], found[:, len(carriers) :].sum(1)


def _without_bias(changes: Iterable[_Change]) -> Iterator[str]:
    for change in changes:
        if change.place.shift and change.place.shift.kind == "layer" and bool(change.shift.any()):
            yield change.place.shift.tensor


def _with_bias(path: str, module: nn.Module) -> Swap:
    """The same layer with a bias."""
    layer = module.get_submodule(path)
    settings: dict[str, Setting] = {"bias": True}
    if isinstance(layer, nn.Linear):
        settings |= {"in_features": layer.in_features, "out_features": layer.out_features}
    else:
        settings |= {"in_channels": layer.in_channels, "out_channels": layer.out_channels}  # type: ignore[dict-item]
        settings |= {name: getattr(layer, name) for name in _SIZES if hasattr(layer, name)}
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            del settings["output_padding"]
    return Swap(path, (Layer(type(layer).__name__, settings),))


def _write(change: _Change, tensors: dict[str, Tensor]) -> None:
    read, shift = change.place.read, change.place.shift
    weight = tensors[read.weight]
    columns = read.columns(weight)
    for column, added in zip(change.columns, change.weights, strict=True):
        columns[column] = (columns[column].double() + added).to(weight.dtype)
    if shift is not None:
        name = f"{shift.tensor}.bias" if shift.kind == "layer" else shift.tensor
        if name in tensors:
            mine = tensors[name][read.rows.start : read.rows.stop]
            mine += (-change.shift if shift.kind == "mean" else change.shift).to(mine.dtype)
