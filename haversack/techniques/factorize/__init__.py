"""Layers become products of smaller layers where that is measured to pay, and stay as they are elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from haversack.calibration.statistics import with_corrected_statistics
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.run import Batches
from haversack.model import Edits, Layer, Model
from haversack.progress import say, track
from haversack.recipe import Stage, Step
from haversack.settings import AtLeast, Count, Fraction, Positive, checked
from haversack.task import Task
from haversack.techniques._exchange import (
    Choice,
    Measure,
    Price,
    Selection,
    Site,
    price_of,
    problem_at,
    sites,
    with_chains,
)
from haversack.techniques.factorize.method import Method
from haversack.techniques.factorize.ways import by_rule, factorized, fitting, ladder, loss
from haversack.training import Training, finetune

Way = Literal["auto", "svd", "spatial", "tucker", "cp"]
Rule = Literal["measured", "energy", "vbmf"]


@dataclass(frozen=True)
class Factorize(Step):
    """The network with some layers written as products of smaller ones, then fine-tuned with the original as teacher.

    `keep` is the fraction that is left of the network's latency, multiply-accumulates or parameters (`of`). Ways
    (`method`): two thin matrices, or fewer filters and a 1 x 1 (`svd`, Zhang et al. 2016); a column and a row of pixels
    (`spatial`, Jaderberg et al. 2014); a kernel between fewer channels (`tucker`, Kim et al. 2016); a kernel a channel
    (`cp`, Lebedev et al. 2015); `auto` tries them all. Factors keep the layer's output on the calibration inputs, not
    its weight. With `ranks` `measured`, ladders of ranks, multiples of `multiple`, are timed on the model's target
    (without one, multiply-accumulates count for latency), and those are taken that lose least of the outputs; a layer
    that no rank makes faster stays. The ranks may also be those that hold the share `energy` of the outputs, or stand
    out of the weights' noise (`vbmf`, Nakajima et al. 2013): then `keep` is not looked at, and each layer takes the
    cheapest way. Grouped convolutions stay as they are.
    """

    keep: Fraction = 0.7
    of: Measure = "latency"
    method: Way = "auto"
    ranks: Rule = "measured"
    energy: Fraction = 0.95
    multiple: Annotated[int, AtLeast(1)] = 1
    epochs: Count = 1
    learning_rate: Positive = 0.02
    seed: int = 0

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)
        if self.ranks != "measured" and self.method == "cp":
            raise RecipeError("cp has no matrix whose energy or noise tells a rank.", mend="write ranks = 'measured'.")

    def apply(self, model: Model, task: Task) -> Model:
        """The network with factors, trained for `epochs`; edits and teacher follow.

        Raises RecipeError, naming the smallest fraction in reach, when `keep` lies below it, and NothingChangedError
        where no layer pays, or the whole network turns out not to be cheaper.
        """
        found, batches = self._sites(model), task.calibration() if task.calibrate is not None else []
        price = price_of(model, self.of)
        choices = [self._choices(price, site, batches) for site in track(found, "trying factors", len(found))]
        if all(len(each) == 1 for each in choices):
            raise NothingChangedError(f"factors lower the {price.said} of no layer.", mend="leave the step out.")
        selection = Selection(price, found, choices)
        chosen = selection.within(self.keep) if self.ranks == "measured" else selection.cheapest()
        _report(found, chosen)
        small = replace(_with(model, found, chosen, batches), teacher=model.teacher or model.module)
        if batches:
            # Factors take no channel from any batch norm; what earlier steps took is gone from both networks.
            small = small.with_module(with_corrected_statistics(small.module, model.module, Edits(), batches))
        if not self.epochs:
            return small
        return small.with_module(finetune(small, task, Training(self.epochs, self.learning_rate, seed=self.seed)))

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the parameters, then of the latency, that are in reach by counting; each mildest first."""
        for of in () if model.grids else ("parameters", "latency"):
            yield from cls._reachable(of, model, device)

    @classmethod
    def _reachable(cls, of: Measure, model: Model, device: Device) -> Iterable[Self]:
        mildest = cls(0.85, of, multiple=device.channel_multiple)
        found, price = sites(model)[0], price_of(replace(model, target=None), of)
        gains = [price.gains(site, mildest._layers(site)) for site in found]
        left = 1 - sum(max([0.0, *(gain.saved for gain in each)]) for each in gains)
        return (replace(mildest, keep=keep) for keep in (0.85, 0.7, 0.55, 0.4) if keep >= left and left < 1)

    def _sites(self, model: Model) -> list[Site]:
        found, left = sites(model)
        for path, reason in left.items():
            say(f"{path} is left alone: {reason}.")
        found = [site for site in found if self._ways(site)]
        if not found:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:3])
            raise NothingChangedError(
                f"there is nothing to factorize ({reasons or 'no linear layer and no convolution without groups'}).",
                mend="leave the step out.",
            )
        return found

    def _ways(self, site: Site) -> list[Method]:
        return [way for way in fitting(site.geometry) if self.method in ("auto", way.name)]

    def _layers(self, site: Site) -> list[tuple[Layer, ...]]:
        return [each.layers for each in ladder(self._ways(site), site.geometry, self.multiple)]

    def _choices(self, price: Price, site: Site, batches: Batches) -> list[Choice]:
        """The layer as it is, and the ways to write it that are cheaper, with what they lose of its output."""
        tried = list(self._tried(price.model, site, batches))
        gains = price.gains(site, [each.layers for each in tried])
        cheaper = [replace(each, cost=-gain.saved) for each, gain in zip(tried, gains, strict=True) if gain.pays]
        whole = Choice("", (), (site.whole,))
        if not cheaper:
            say(f"{site.path} is left alone: {price.no_gain('factorization', gains)}.")
            return [whole]
        problem = problem_at(price.model.module, site, batches)
        return [whole, *(replace(each, loss=loss(problem, each.method, each.ranks)) for each in cheaper)]

    def _tried(self, model: Model, site: Site, batches: Batches) -> Iterable[Choice]:
        if self.ranks == "measured":
            return ladder(self._ways(site), site.geometry, self.multiple)
        energy = self.energy if self.ranks == "energy" else None
        return by_rule(self._ways(site), problem_at(model.module, site, batches), self.multiple, energy)


def _with(model: Model, found: Sequence[Site], chosen: Sequence[Choice], batches: Batches) -> Model:
    """The model with the chosen layers in factors."""
    chains = {
        site.path: factorized(problem_at(model.module, site, batches), choice.method, choice.ranks)
        for site, choice in zip(found, chosen, strict=True)
        if choice.method
    }
    return model.with_module(*with_chains(model.module, chains))


def _report(found: Sequence[Site], chosen: Sequence[Choice]) -> None:
    for site, choice in zip(found, chosen, strict=True):
        if choice.method:
            ranks = " x ".join(map(str, choice.ranks))
            say(f"{site.path}: {choice.method} of rank {ranks}, {choice.loss:.1%} of its output is lost.")
