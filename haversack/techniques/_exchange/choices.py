"""Choices of an exchange: for each layer the few replacements that a planner chooses from, and what they lose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from torch import Tensor

from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import macs, parameters
from haversack.choices import Site
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import Batches, joined
from haversack.model import Layer, Model
from haversack.recipe import Step
from haversack.techniques._choices import LayerChoices
from haversack.techniques._exchange import Choice
from haversack.techniques._exchange.sites import ExchangeSite, inputs_at, problem_at, problem_reading, sites

_SAMPLES = 128
_NUMBERS = 1 << 26
"""Numbers that layers read and that are kept at a time: a quarter of a gigabyte."""
_MOST = 5
"""Replacements of a layer that a planner chooses from."""
_PAYS = 0.9
"""A replacement has at most this share of the layer's multiply-accumulates, or of its parameters."""
_BEARABLE = 1.1
"""It has at most this multiple of the other."""

Weigh = Callable[[Problem, Choice], Tensor]
"""The dense weight (outputs, inputs, pixels) that a choice stands for."""


@dataclass(frozen=True)
class Exchangeable:
    """A layer and what may take its place, mildest first."""

    site: ExchangeSite
    choices: tuple[Choice, ...]

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return f"{self.site.path}.weight"


def exchangeable(model: Model, tried: Callable[[ExchangeSite], Iterable[Choice]], weigh: Weigh) -> list[Exchangeable]:
    """The layers that may give way, each with at most five replacements; those that others beat are left out.

    Beaten is what has neither fewer multiply-accumulates nor fewer parameters than another one that loses no more of
    the layer's output, if all inputs counted alike.
    """
    folded = inference(model)
    may = folded.writable - folded.merged.keys()
    layers = [
        Exchangeable(site, _unbeaten(site, tried(site), problem_at(model.module, site, ()), weigh))
        for site in sites(model)[0]
        if f"{site.path}.weight" in may
    ]
    return [layer for layer in layers if layer.choices]


@dataclass(frozen=True, eq=False)
class FoldedWeights:
    """What choices make of the layers' weights, as these stand in the folded network.

    What layers read is noted for as many of them at a time as there is room for: a run of the network for all of these.
    """

    model: Model
    layers: Sequence[Exchangeable]
    weigh: Weigh
    _read: dict[str, list[Tensor]] = field(default_factory=dict)

    def of(self, index: int, batches: Batches) -> Sequence[Tensor]:
        """The weight of one of the layers with each of its choices."""
        layer = self.layers[index]
        problem = problem_reading(self.model.module, layer.site, self._inputs(index, batches))
        folded = self._folded.tensor(layer.weight).detach()
        rows = folded.double().flatten(1)
        # Batch norm, where there is one, multiplied each row by a number.
        factor = (rows * problem.flat).sum(1) / problem.flat.square().sum(1).clamp_min(1e-30)
        dense = (self.weigh(problem, choice).flatten(1) * factor.unsqueeze(1) for choice in layer.choices)
        return [each.to(folded.dtype).view(folded.shape) for each in dense]

    @cached_property
    def _folded(self) -> Folded:
        return inference(self.model)

    def _inputs(self, index: int, batches: Batches) -> list[Tensor]:
        path = self.layers[index].site.path
        if path not in self._read:
            numbers = accumulate(_SAMPLES * _numbers_read(layer.site) for layer in self.layers[index:])
            count = max(1, sum(total <= _NUMBERS for total in numbers))
            paths = [layer.site.path for layer in self.layers[index : index + count]]
            self._read.clear()
            self._read.update(inputs_at(self.model.module, paths, [joined(batches, _SAMPLES)]))
        return self._read.pop(path)


def _numbers_read(site: ExchangeSite) -> int:
    """How many numbers of one sample the layer reads."""
    return math.prod(site.input_shape) * site.calls


def layer_choices(
    layers: FoldedWeights, site: Callable[[Exchangeable], Site], step: Callable[[Mapping[str, Choice]], Step]
) -> LayerChoices | None:
    """A `site` for each layer that may give way; None where there is none.

    `step` gives the step that exchanges the layers of these paths for these choices, and trains nothing.
    """
    each = layers.layers
    if not each:
        return None

    def made(chosen: Sequence[int]) -> Step | None:
        pairs = zip(each, chosen, strict=True)
        told = {layer.site.path: layer.choices[option - 1] for layer, option in pairs if option}
        return step(told) if told else None

    weights = tuple(layer.weight for layer in each)
    return LayerChoices(layers.model, sites=tuple(map(site, each)), weights=weights, tried=layers.of, made=made)


def _unbeaten(site: ExchangeSite, tried: Iterable[Choice], problem: Problem, weigh: Weigh) -> tuple[Choice, ...]:
    """The choices that pay and that no other one beats, at most five of them, the mildest first."""
    whole = _figures(site, (site.whole,))
    paying = [
        (*price, problem.error(weigh(problem, choice)), choice)
        for choice in tried
        if _pays(price := _figures(site, choice.layers), whole)
    ]
    kept = sorted((row for row in paying if not any(_beats(other, row) for other in paying)), key=lambda row: row[2])
    last = len(kept) - 1
    places = {round(index * last / (_MOST - 1)) for index in range(_MOST)} if last >= _MOST else range(last + 1)
    return tuple(kept[place][3] for place in sorted(places))


_Row = tuple[float, float, float, Choice]
"""Multiply-accumulates, parameters, the share of the output that is lost, and the choice."""


def _beats(one: _Row, other: _Row) -> bool:
    return one[:3] != other[:3] and all(mine <= theirs for mine, theirs in zip(one[:3], other[:3], strict=True))


def _pays(price: tuple[float, float], whole: tuple[float, float]) -> bool:
    """Whether it has noticeably less of one, and not much more of the other."""
    shares = [few / most for few, most in zip(price, whole, strict=True)]
    return min(shares) <= _PAYS and max(shares) <= _BEARABLE


def _figures(site: ExchangeSite, layers: Sequence[Layer]) -> tuple[float, float]:
    """The multiply-accumulates and the parameters."""
    return float(macs(layers, site.input_shape)), float(parameters(layers))
