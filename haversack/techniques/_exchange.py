"""Exchange: some layers give way to cheaper ones, so that the network reaches a cost with the least loss.

Sites are the layers that may go. A price is what their replacements save, timed on the target where there is one and
counted otherwise; the selection is one choice a site. `factorize` and `replace_blocks` share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from haversack.calibration.least_squares import Chain, Problem, problem_of
from haversack.calibration.patches import Geometry, geometry_of, macs, parameters
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.cost import cost
from haversack.graph.run import Batches, on_the_same_tensors
from haversack.graph.trace import trace
from haversack.model import Edits, Layer, Model, Swap, Target
from haversack.surgery.edit import edit


@dataclass(frozen=True)
class Site:
    """A layer at `path` that reads an input of this shape (a batch of 1), so many times a run."""

    path: str
    geometry: Geometry
    input_shape: tuple[int, ...]
    calls: int

    @property
    def whole(self) -> Layer:
        """The layer as it is."""
        return self.geometry.piece(self.geometry.inputs, self.geometry.outputs, self.geometry.everywhere, last=True)


def sites(model: Model) -> tuple[list[Site], dict[str, str]]:
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
            found.append(Site(path, geometry, shapes[0], len(shapes)))
    return found, left


def problem_at(module: nn.Module, site: Site, batches: Batches) -> Problem:
    """The site's weight, and the inputs that it reads on `batches`; without batches every input counts alike."""
    return problem_of(module.get_submodule(site.path), site.geometry, _inputs(module, site.path, batches))


def with_chains(module: nn.Module, chains: dict[str, Chain]) -> tuple[nn.Module, Edits]:
    """A copy of `module` where each chain has taken the place of the layer at its path, and the edits that did it."""
    edits = Edits(tuple(Swap(path, tuple(factor.layer for factor in chain)) for path, chain in chains.items()))
    new = edit(module, edits)
    with torch.no_grad():
        for path, chain in chains.items():
            for layer, factor in zip(new.get_submodule(path).children(), chain, strict=True):
                layer.get_parameter("weight").copy_(factor.weight)
                if factor.bias is not None:
                    layer.get_parameter("bias").copy_(factor.bias)
    return new, edits


def alone(site: Site, layers: Sequence[Layer]) -> Model:
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
    return [(1, *value.shape[1:]) for value in _inputs(model.module, path, [model.example])]


def _inputs(module: nn.Module, path: str, batches: Batches) -> list[Tensor]:
    """What the layer at `path` reads on each batch."""
    read: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        read.append(given[0].detach())

    handle = module.get_submodule(path).register_forward_pre_hook(keep)
    try:
        with torch.no_grad():
            for batch in batches:
                module(*batch)
    finally:
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


Measure = Literal["latency", "macs", "parameters"]
_SAID: dict[Measure, str] = {"latency": "latency", "macs": "multiply-accumulates", "parameters": "parameters"}
# Times are read to a few percent.
_FASTER = 0.97


@dataclass(frozen=True)
class Gain:
    """What one way to write a layer saves of the network, and what it costs over the layer as it is."""

    saved: float
    ratio: float
    pays: bool


@dataclass(frozen=True)
class Price:
    """What counts: the latency, the multiply-accumulates (latency without a target too) or the parameters."""

    model: Model
    of: Measure
    whole: float
    """What the network counts."""

    @property
    def said(self) -> str:
        """What counts, in words."""
        return _SAID[self.of]

    @property
    def timed(self) -> Target | None:
        """Where prices are measured; None where they are counted."""
        return self.model.target if self.of == "latency" else None

    def gains(self, site: Site, ways: Sequence[Sequence[Layer]]) -> list[Gain]:
        """What each way to write a layer brings.

        A layer that runs by itself pays for starting up, as the network does once: so only differences count, and all
        are timed in alternation with the network.
        """
        if not ways:
            return []
        every = [[site.whole], *ways]
        if self.timed is None:
            whole, (before, *after) = self.whole, [_count(self.of, site, layers) for layers in every]
        else:
            whole, before, *after = self.timed.latencies_ms([self.model, *(alone(site, each) for each in every)])
        limit = (_FASTER if self.timed else 1.0) * before
        return [Gain((before - each) * site.calls / whole, each / before, each < limit) for each in after]

    def no_gain(self, what: str, gains: Sequence[Gain]) -> str:
        """Why none of the ways to write a layer pays, in figures."""
        if not gains:
            return f"no {what} fits it"
        best = f"the best of {len(gains)} has {min(gain.ratio for gain in gains):.2f}x its {self.said}"
        return f"no {what} pays: {best}{f', and less than {_FASTER}x would pay' if self.timed else ''}"

    def ratio(self, after: Model) -> float:
        """What the network costs in the end over what it did; parameters are bytes of the file where there is one."""
        if self.timed is not None:
            before, now = self.timed.latencies_ms([self.model, after])
            return now / before
        if self.of == "parameters" and self.model.target is not None:
            return self.model.target.flash_bytes(after) / self.model.target.flash_bytes(self.model)
        return _counted(after, self.of) / self.whole


def price_of(model: Model, of: Measure) -> Price:
    """The price of what `model` is made of."""
    return Price(model, of, _counted(model, of))


def _count(of: Measure, site: Site, layers: Sequence[Layer]) -> float:
    return float(parameters(layers) if of == "parameters" else macs(layers, site.input_shape))


def _counted(model: Model, of: Measure) -> float:
    if of == "parameters":
        return float(sum(parameter.numel() for parameter in model.module.parameters()))
    return float(cost(trace(model.module, model.example)).macs)


Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One way to write a layer: its cost over the layer as it is, a share of the network's; its loss, of its output."""

    method: str
    ranks: Ranks
    layers: tuple[Layer, ...]
    cost: float = 0.0
    loss: float = 0.0


def frontier(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull of loss over cost, dearest first: no mixture of other choices beats one of these."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (-each.cost, each.loss)):
        if hull and choice.cost == hull[-1].cost:
            continue
        while hull and choice.loss <= hull[-1].loss:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-1], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def allocated(layers: Sequence[Sequence[Choice]], goal: float) -> list[Choice]:
    """One choice a layer, so that the network costs at most `goal` of what it did, or as little as is in reach.

    One choice of each layer is the layer as it is, which costs 0. Always takes the step that loses least for what it
    saves, then takes those back that turn out not to be needed, latest first.
    """
    hulls = [frontier(choices) for choices in layers]
    steps, taken = [0] * len(hulls), []
    while _cost(hulls, steps) > goal + 1e-9:
        open_ = [place for place, hull in enumerate(hulls) if steps[place] + 1 < len(hull)]
        if not open_:
            break
        place = min(open_, key=lambda each: _slope(*hulls[each][steps[each] : steps[each] + 2]))
        steps[place] += 1
        taken.append(place)
    for place in reversed(taken):
        steps[place] -= 1
        if _cost(hulls, steps) > goal + 1e-9:
            steps[place] += 1
    return [hull[step] for hull, step in zip(hulls, steps, strict=True)]


def _cost(hulls: Sequence[Sequence[Choice]], steps: Sequence[int]) -> float:
    return 1 + sum(hull[step].cost for hull, step in zip(hulls, steps, strict=True))


def _slope(dear: Choice, cheap: Choice) -> float:
    return (cheap.loss - dear.loss) / (dear.cost - cheap.cost)


_TRIES = 3
"""Layers are timed by themselves: what they save together has to be corrected once or twice."""


@dataclass(frozen=True)
class Selection:
    """What there is to choose from: for each of the layers `found`, the layer as it is and what pays in its place."""

    price: Price
    found: Sequence[Site]
    choices: Sequence[Sequence[Choice]]

    def cheapest(self) -> list[Choice]:
        """The cheapest choice of each layer. Raises NothingChangedError where the whole network does not pay so."""
        return self._cheapest()[0]

    def within(self, keep: float) -> list[Choice]:
        """The choices that lose least among those with which the network costs the fraction `keep` of what it did.

        Raises RecipeError, naming the smallest fraction in reach, where `keep` lies below it, and NothingChangedError
        as `cheapest` does.
        """
        cheapest, least = self._cheapest()
        if least > keep:
            raise RecipeError(
                f"keep is {keep}, but the smallest fraction of {self.price.said} in reach is {least:.3f}.",
                mend="keep more.",
            )
        # What layers save by themselves is not what they save together: the cheapest choices tell by how much.
        scale = sum(one.cost for one in cheapest) / (least - 1)
        goal = 1 - (1 - keep) * scale
        for _ in range(_TRIES):
            chosen = allocated(self.choices, goal)
            ratio = self._ratio(chosen)
            if ratio <= keep * (1.01 if self.price.timed else 1):
                return chosen
            goal -= (ratio - keep) * scale
        return cheapest

    def _cheapest(self) -> tuple[list[Choice], float]:
        """The cheapest choices, and the fraction of its cost that the network has with them."""
        cheapest = [min(each, key=lambda one: one.cost) for each in self.choices]
        least = self._ratio(cheapest)
        if least >= 1:
            raise NothingChangedError(
                f"by then the network has {least:.3f} of its {self.price.said}, though its layers alone have less.",
                mend="leave the step out.",
            )
        return cheapest, least

    def _ratio(self, chosen: Sequence[Choice]) -> float:
        pairs = zip(self.found, chosen, strict=True)
        layers = {site.path: choice.layers for site, choice in pairs if choice.method}
        return self.price.ratio(blank(self.price.model, layers))
