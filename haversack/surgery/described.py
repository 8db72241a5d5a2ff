"""Described: edits as plain data and back, each held against the network that it is done to before it is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from haversack.errors import SurgeryError
from haversack.model import Layer, Setting, Slices, Swap

MOST_CHANGES = 1000
_MOST_LAYERS, _MOST_SETTINGS, _MOST_TEXT, _MOST_AXES = 64, 64, 100, 8
_LARGEST = 1 << 24
"""No channel count, kernel or vocabulary is larger."""
_REPEATS = {"num_layers": 64}
_PLACES = {"device", "dtype"}
"""Where and in what a layer is built is not for a file to say."""


@dataclass
class Allowance:
    """What may still be built of what a file says; `claim` raises SurgeryError when that is less than is asked for."""

    left: int

    def claim(self, count: int, where: str) -> None:
        """Takes `count` bytes, or indices, off what is left."""
        self.left -= count
        if self.left < 0:
            raise SurgeryError(
                "it asks for more than the network and its weights file have.",
                where=where,
                mend="load it onto the network() that it was saved from.",
            )


def described(change: Slices | Swap) -> dict[str, Any]:
    """An edit as `change_of` reads it."""
    if isinstance(change, Slices):
        kept = {name: {str(dim): ranges(some) for dim, some in dims.items()} for name, dims in change.kept.items()}
        return {"keep": kept}
    return {"swap": change.path, "by": [{"kind": layer.kind, **layer.settings} for layer in change.layers]}


def change_of(data: object, tensors: Mapping[str, Tensor], allowance: Allowance) -> Slices | Swap:
    """The edit that `data` describe, of a network that has these tensors; raises SurgeryError where there is none."""
    if isinstance(data, dict) and data.keys() == {"keep"}:
        named = _checked(dict, data["keep"]).items()
        return Slices({name: _kept(name, _checked(dict, dims), tensors, allowance) for name, dims in named})
    if isinstance(data, dict) and data.keys() == {"swap", "by"}:
        layers = _checked(list, data["by"])
        if len(layers) > _MOST_LAYERS:
            raise _senseless(f"{len(layers)} layers in the place of one")
        return Swap(_checked(str, data["swap"]), tuple(_layer(_checked(dict, each)) for each in layers))
    raise _senseless(data)


def ranges(indices: Sequence[int]) -> str:
    """Ascending indices as people read them: `0-15 18 20-31`."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _kept(
    name: str, dims: dict[str, Any], tensors: Mapping[str, Tensor], allowance: Allowance
) -> dict[int, tuple[int, ...]]:
    if name not in tensors:
        raise SurgeryError(f"the network has no tensor '{name}'.", mend="load the edits onto their own network().")
    extents = {str(dim): extent for dim, extent in enumerate(tensors[name].shape)}
    kept = {}
    for dim, text in dims.items():
        if dim not in extents:
            raise SurgeryError(f"it has no dimension {dim}: its shape is {tuple(tensors[name].shape)}.", where=name)
        runs = list(_runs(_checked(str, text)))
        ascending = all(before[1] < after[0] for before, after in pairwise(runs))
        if not ascending or any(not low <= high < extents[dim] for low, high in runs):
            raise SurgeryError(f"dimension {dim} of extent {extents[dim]} cannot keep [{text[:40]}].", where=name)
        allowance.claim(sum(high - low + 1 for low, high in runs), name)
        kept[int(dim)] = tuple(index for low, high in runs for index in range(low, high + 1))
    return kept


def _runs(text: str) -> Iterator[tuple[int, int]]:
    for run in text.split():
        low, _, high = run.partition("-")
        if not all(each.isascii() and each.isdecimal() and len(each) < 10 for each in (low, high or low)):
            raise _senseless(text)
        yield int(low), int(high or low)


def _layer(data: dict[str, Any]) -> Layer:
    kind = _checked(str, data.get("kind"))
    settings = {name: _setting(name, value) for name, value in data.items() if name != "kind"}
    if len(kind) > _MOST_TEXT or len(settings) > _MOST_SETTINGS or settings.keys() & _PLACES:
        raise _senseless(data)
    return Layer(kind, settings)


def _setting(name: str, value: object) -> Setting:
    most = _REPEATS.get(name, _LARGEST)
    if isinstance(value, int | float) and -most <= value <= most:
        return value
    if isinstance(value, str) and len(value) <= _MOST_TEXT:
        return value
    axes = value if isinstance(value, list) and len(value) <= _MOST_AXES else [None]
    if all(type(each) is int and -most <= each <= most for each in axes):
        return tuple(axes)
    raise _senseless({name: value})


def _checked(kind: type, value: object) -> Any:  # noqa: ANN401 - of that kind
    if type(value) is not kind:
        raise _senseless(value)
    return value


def _senseless(value: object) -> SurgeryError:
    shown = value if isinstance(value, str) else repr(value)
    return SurgeryError(f"it holds no edit: {shown[:60]}.", mend="save the model again.")
