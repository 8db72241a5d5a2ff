"""Sites: the layers that may give way to others, what they read, and a network in which some have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haversack.calibration.least_squares import Problem, problem_of
from haversack.calibration.patches import Geometry, geometry_of
from haversack.graph.run import Batches, on_the_same_tensors
from haversack.model import Edits, Layer, Model, Swap
from haversack.surgery.edit import edit


@dataclass(frozen=True)
class ExchangeSite:
    """A layer at `path` that reads an input of this shape (a batch of 1), so many times a run."""

    path: str
    geometry: Geometry
    input_shape: tuple[int, ...]
    calls: int

    @property
    def whole(self) -> Layer:
        """The layer as it is."""
        return self.geometry.piece(self.geometry.inputs, self.geometry.outputs, self.geometry.everywhere, last=True)


def sites(model: Model) -> tuple[list[ExchangeSite], dict[str, str]]:
    """The layers that may be factorized, in the order of the network, and why others may not: {path: reason}."""
    module, found, left = model.module, [], {}
    tensors = Counter(id(tensor) for _, tensor in module.named_parameters(remove_duplicate=False))
    for path, layer in module.named_modules(remove_duplicate=False):
        geometry = geometry_of(layer)
        if geometry is None:
            continue
        shapes = _input_shapes(model, path)
        if any(tensors[id(tensor)] > 1 for tensor in layer.parameters()):
            left[path] = "its weight is shared with another layer"
        elif any(f"{path}.{name}" in model.sparse for name, _ in layer.named_parameters()):
            left[path] = "its weight was pruned"
        elif not shapes or len(set(shapes)) > 1:
            left[path] = "it does not run once for each input" if shapes else "it never runs"
        elif not _may_be_wrapped(model, path):
            left[path] = "the network reads its attributes"
        else:
            found.append(ExchangeSite(path, geometry, shapes[0], len(shapes)))
    return found, left


def problem_at(module: nn.Module, site: ExchangeSite, batches: Batches) -> Problem:
    """The site's weight, and the inputs that it reads on `batches`; without batches every input counts alike."""
    return problem_reading(module, site, inputs_at(module, [site.path], batches)[site.path])


def problem_reading(module: nn.Module, site: ExchangeSite, inputs: Sequence[Tensor]) -> Problem:
    """The site's weight, and the inputs that it reads."""
    return problem_of(module.get_submodule(site.path), site.geometry, inputs)


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


def alone(site: ExchangeSite, layers: Sequence[Layer]) -> Model:
    """A model of nothing but `layers`, to be timed on what the site reads; its numbers mean nothing."""
    random = torch.Generator().manual_seed(0)
    network = Model(nn.Sequential(nn.Identity()).eval(), (torch.randn(site.input_shape, generator=random),))
    return blank(network, {"0": layers})


def blank(model: Model, layers: Mapping[str, Sequence[Layer]]) -> Model:
    """The model with these layers in the place of those at their paths, to be timed: their numbers mean nothing."""
    module = edit(model.module, Edits(tuple(Swap(path, tuple(each)) for path, each in layers.items())))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path in layers:
            for parameter in module.get_submodule(path).parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / parameter[0].numel() ** 0.5)
    return model.with_module(module)


def _input_shapes(model: Model, path: str) -> list[tuple[int, ...]]:
    return [(1, *value.shape[1:]) for value in inputs_at(model.module, [path], [model.example])[path]]


def inputs_at(module: nn.Module, paths: Sequence[str], batches: Batches) -> dict[str, list[Tensor]]:
    """What each of the layers at `paths` reads on each batch."""
    read: dict[str, list[Tensor]] = {path: [] for path in paths}
    handles = []
    for path in paths:

        def keep(_: nn.Module, given: tuple[Tensor, ...], path: str = path) -> None:
            read[path].append(given[0].detach())

        handles.append(module.get_submodule(path).register_forward_pre_hook(keep))
    try:
        with torch.no_grad():
            for batch in batches:
                module(*batch)
    finally:
        for handle in handles:
            handle.remove()
    return read


def _may_be_wrapped(model: Model, path: str) -> bool:
    """Whether the network still runs when the layer lies in a sequence: it may read the layer's kernel size itself."""
    if not path:
        return True
    module = on_the_same_tensors(model.module)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, nn.Sequential(module.get_submodule(path)))
    try:
        with torch.no_grad():
            module(*model.example)
    except Exception:  # noqa: BLE001 - whatever the user's forward() raises
        return False
    return True
