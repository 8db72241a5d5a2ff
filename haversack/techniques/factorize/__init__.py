"""Layers become products of smaller layers where that is measured to pay, and stay as they are elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.calibration.statistics import with_corrected_statistics
from haversack.channels.cost import Measure
from haversack.choices import Factors, Option, Site
from haversack.device import Device
from haversack.errors import RecipeError
from haversack.model import Edits, Model
from haversack.recipe import Stage, Step
from haversack.settings import AtLeast, Count, Fraction, Like, Positive, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, spelled
from haversack.techniques._exchange import Choice, Exchange, Ways
from haversack.techniques._exchange.choices import Exchangeable, FoldedWeights, exchangeable, layer_choices
from haversack.techniques._exchange.sites import ExchangeSite
from haversack.techniques.factorize.method import Method
from haversack.techniques.factorize.ways import (
    METHODS,
    by_energy,
    check_ranks,
    composed,
    factorized,
    fitting,
    ladder,
    loss,
)
from haversack.training import trained

Way = Literal["auto", "svd", "spatial", "tucker", "cp"]
Rule = Literal["measured", "energy"]
_SPELLED = r"(?s:.+)=(svd|spatial|tucker|cp):\d{1,6}(x\d{1,6})?"


@dataclass(frozen=True)
class Factorize(Step):
    """The network with some layers written as products of smaller ones, then fine-tuned with the original as teacher.

    `keep` is the fraction that is left of the network's latency, multiply-accumulates or parameters (`of`). Ways
    (`method`): two thin matrices, or fewer filters and a 1 x 1 (`svd`, Zhang et al. 2016); a column and a row of pixels
    (`spatial`, Jaderberg et al. 2014); a kernel between fewer channels (`tucker`, Kim et al. 2016); a kernel a channel
    (`cp`, Lebedev et al. 2015); `auto` tries them all. Factors keep the layer's output on the calibration inputs, not
    its weight. With `ranks` `measured`, ladders of ranks, multiples of `multiple`, are timed on the model's target
    (without one, multiply-accumulates count for latency), and those are taken that lose least of the outputs; a layer
    that no rank makes faster stays. With `energy` the ranks are those that hold this share of the outputs: `keep` is
    not looked at, and each layer takes the cheapest way. Grouped convolutions stay as they are. With `factors`
    ("conv=tucker:8x8") only the layers that it names become factors, of these ranks, and nothing is timed.
    """

    keep: Fraction = 0.7
    of: Measure = "latency"
    method: Way = "auto"
    ranks: Rule = "measured"
    energy: Fraction = 0.95
    multiple: Annotated[int, AtLeast(1)] = 1
    factors: tuple[Annotated[str, Like(_SPELLED, "conv=tucker:8x8")], ...] = ()
    epochs: Count = 1
    learning_rate: Positive = 0.02
    seed: int = 0

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)
        spelled(self.factors, "factors")
        if self.ranks != "measured" and self.method == "cp":
            raise RecipeError("cp has no matrix whose energy tells a rank.", mend="write ranks = 'measured'.")

    def apply(self, model: Model, task: Task) -> Model:
        """The network with factors, trained for `epochs`; edits and teacher follow.

        Raises RecipeError, naming the smallest fraction in reach, when `keep` lies below it, and NothingChangedError
        where no layer pays, or the whole network turns out not to be cheaper.
        """
        batches = task.calibration() if task.calibrate is not None else []
        exchange = Exchange(model, self.of, self._ways, batches)
        if self.factors:
            small, _ = exchange.told("factors", spelled(self.factors, "factors"), _read)
        else:
            small, _ = exchange.done(self.keep if self.ranks == "measured" else None)
        if batches:
            # Factors take no channel from any batch norm; what earlier steps took is gone from both networks.
            small = small.with_module(with_corrected_statistics(small.module, model.module, Edits(), batches))
        return trained(small, task, self.epochs, learning_rate=self.learning_rate, seed=self.seed)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the parameters, then of the latency, that are in reach by counting; each mildest first."""
        for of in ("parameters", "latency") if not model.grids else ():
            mildest = cls(0.85, of, multiple=device.channel_multiple)
            keeps = Exchange(model, of, mildest._ways).in_reach((0.85, 0.7, 0.55, 0.4))
            yield from (replace(mildest, keep=keep) for keep in keeps)

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site a layer that factors make cheaper, with a few ranks; None where there is none."""

        def tried(site: ExchangeSite) -> Iterable[Choice]:
            return ladder([way for way in fitting(site.geometry) if way.sides], site.geometry, device.channel_multiple)

        def step(told: Mapping[str, Choice]) -> Factorize:
            factors = (f"{path}={each.method}:{'x'.join(map(str, each.ranks))}" for path, each in told.items())
            return cls(factors=tuple(factors), epochs=0)

        layers = [] if model.grids else exchangeable(model, tried, composed)
        return layer_choices(FoldedWeights(model, layers, composed), _site, step)

    @property
    def _ways(self) -> Ways:
        return Ways(
            one="factorization",
            many="factors",
            nothing="there is nothing to factorize",
            lacking="no linear layer and no convolution without groups",
            suits=lambda geometry: bool(self._methods(geometry)),
            tried=self._tried,
            loss=lambda problem, choice: loss(problem, choice.method, choice.ranks),
            replacement=lambda problem, choice: factorized(problem, choice.method, choice.ranks),
        )

    def _methods(self, geometry: Geometry) -> list[Method]:
        return [way for way in fitting(geometry) if self.method in ("auto", way.name)]

    def _tried(self, site: ExchangeSite, problem: Callable[[], Problem]) -> Iterable[Choice]:
        methods = self._methods(site.geometry)
        if self.ranks == "measured":
            return ladder(methods, site.geometry, self.multiple)
        return by_energy(methods, problem(), self.multiple, self.energy)


def _site(layer: Exchangeable) -> Site:
    path = layer.site.path
    options = (Option(str(each), Factors(path, each.method, each.ranks)) for each in layer.choices)
    return Site(path, "factorize", (Option("one layer"), *options))


def _read(site: ExchangeSite, text: str) -> Choice:
    """What a setting such as tucker:8x8 says; raises RecipeError where it does not suit the layer."""
    name, _, numbers = text.partition(":")
    suiting = [way.name for way in fitting(site.geometry)]
    if name not in suiting:
        raise RecipeError(
            f"{name} does not suit {site.path}.", where="factors", mend=f"choose from: {', '.join(suiting)}."
        )
    ranks = tuple(int(number) for number in numbers.split("x"))
    check_ranks(site.geometry, name, ranks)
    return Choice(name, ranks, METHODS[name].layers(site.geometry, ranks))
