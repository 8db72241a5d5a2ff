"""Convolutions give way to depthwise separable, grouped and shuffled blocks where those pay, and stay elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from torch import nn

from haversack.calibration.imitate import block_by_block
from haversack.calibration.statistics import with_corrected_statistics
from haversack.device import Device
from haversack.errors import NothingChangedError
from haversack.graph.run import Batches
from haversack.model import Edits, Model
from haversack.progress import say, track
from haversack.recipe import Stage, Step
from haversack.settings import Count, Fraction, Positive, checked
from haversack.task import Task
from haversack.techniques._exchange import Choice, Gain, Measure, Price, Selection, Site, price_of, problem_at, sites
from haversack.techniques.replace_blocks.blocks import ladder, loss, replacement, suits, with_replacements
from haversack.techniques.replace_blocks.merged import merged, unmerged
from haversack.training import Training, finetune

Block = Literal["best", "separable", "grouped", "shuffle"]


@dataclass(frozen=True)
class ReplaceBlocks(Step):
    """The network with cheaper blocks in the place of some convolutions, then taught by the original.

    `keep` is the fraction that is left of the network's latency, multiply-accumulates or parameters (`of`). A kernel
    gives way to one kernel a channel and a 1 x 1 that mixes (`separable`, Howard et al. 2017), to one among few
    channels instead (`grouped`, Peng et al. 2018), or to one whose mixture is grouped too, after a shuffle (`shuffle`,
    Zhang et al. 2018); `best` tries them all. Blocks are timed on the model's target (without one, multiply-accumulates
    count for latency): a convolution that no block makes cheaper stays, and of the others those change that lose least.

    Blocks start from the convolution's own kernel, fitted to its outputs on the calibration inputs. In `passes` over
    these they then learn to give what the convolution gave, and in `epochs` the whole network learns from the data and
    from the original.
    """

    keep: Fraction = 0.6
    of: Measure = "latency"
    block: Block = "best"
    passes: Count = 10
    epochs: Count = 4
    learning_rate: Positive = 0.03
    seed: int = 0

    stage: ClassVar[Stage] = Stage.DESIGN
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:
        """The network with blocks, trained for `epochs`; edits and teacher follow.

        Raises TaskError without calibration inputs, RecipeError, naming the smallest fraction in reach, when `keep`
        lies below it, and NothingChangedError where there is no ordinary convolution, or no block pays.
        """
        found, batches = self._sites(model), task.calibration()
        chosen = self._chosen(model, found, batches)
        replacements = {
            site.path: replacement(problem_at(model.module, site, batches), choice)
            for site, choice in zip(found, chosen, strict=True)
            if choice.method
        }
        small = model.with_module(*with_replacements(model.module, replacements))
        small = replace(small, teacher=model.teacher or model.module)
        return small.with_module(unmerged(small.module, self._taught(small, model.module, task, list(replacements))))

    def skeleton(self) -> Self:
        """The same blocks, with the numbers they start from."""
        return replace(self, passes=0)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the latency, then of the parameters, that are in reach by counting; each mildest first."""
        del device
        for of in () if model.grids else ("latency", "parameters"):
            yield from cls._reachable(of, model)

    @classmethod
    def _reachable(cls, of: Measure, model: Model) -> Iterable[Self]:
        price, step = price_of(replace(model, target=None), of), cls(of=of)
        found = [site for site in sites(model)[0] if suits(site.geometry)]
        gains = step._gains(price, found)
        left = 1 - sum(max([0.0, *(gain.saved for gain in each)]) for each in gains)
        return (replace(step, keep=keep) for keep in (0.75, 0.6, 0.5, 0.4) if keep >= left and left < 1)

    def _sites(self, model: Model) -> list[Site]:
        found, left = sites(model)
        found = [site for site in found if suits(site.geometry)]
        if not found:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:3])
            raise NothingChangedError(
                f"there is no ordinary convolution to replace ({reasons or 'none has a kernel of its own'}).",
                mend="leave the step out.",
            )
        return found

    def _chosen(self, model: Model, found: list[Site], batches: Batches) -> list[Choice]:
        """A block or the convolution itself for each site, with which the network costs what it may."""
        price = price_of(model, self.of)
        gains = self._gains(price, found)
        pairs = track(list(zip(found, gains, strict=True)), "fitting blocks", len(found))
        choices = [self._choices(price, site, each, batches) for site, each in pairs]
        if all(len(each) == 1 for each in choices):
            raise NothingChangedError(f"blocks lower the {price.said} of no layer.", mend="leave the step out.")
        chosen = Selection(price, found, choices).within(self.keep)
        for site, choice in zip(found, chosen, strict=True):
            if choice.method:
                say(f"{site.path}: {choice.method} {' x '.join(map(str, choice.ranks))}, {choice.loss:.1%} is lost.")
        return chosen

    def _taught(self, small: Model, original: nn.Module, task: Task, paths: Sequence[str]) -> nn.Module:
        """The network with its blocks merged, after all training."""
        batches, wide = task.calibration(), replace(small, module=merged(small.module, paths))
        wide = block_by_block(wide, original, paths, batches, passes=self.passes, seed=self.seed)
        # Blocks take no channel from any batch norm; what earlier steps took is gone from both networks.
        wide = wide.with_module(with_corrected_statistics(wide.module, original, Edits(), batches))
        training = Training(self.epochs, self.learning_rate, seed=self.seed)
        return finetune(wide, task, training) if self.epochs else wide.module

    def _ladder(self, site: Site) -> list[Choice]:
        return [each for each in ladder(site.geometry) if self.block in ("best", each.method)]

    def _gains(self, price: Price, found: Sequence[Site]) -> list[list[Gain]]:
        """What each block brings at each site; layers of one shape are timed once."""
        known: dict[object, list[Gain]] = {}
        for site in track(found, "pricing blocks", len(found)):
            alike = (site.geometry, site.input_shape, site.calls)
            if alike not in known:
                known[alike] = price.gains(site, [each.layers for each in self._ladder(site)])
        return [known[(site.geometry, site.input_shape, site.calls)] for site in found]

    def _choices(self, price: Price, site: Site, gains: list[Gain], batches: Batches) -> list[Choice]:
        """The convolution as it is, and the blocks that are cheaper, with what they lose of its output."""
        tried = zip(self._ladder(site), gains, strict=True)
        cheaper = [replace(each, cost=-gain.saved) for each, gain in tried if gain.pays]
        whole = Choice("", (), (site.whole,))
        if not cheaper:
            say(f"{site.path} is left alone: {price.no_gain('block', gains)}.")
            return [whole]
        problem = problem_at(price.model.module, site, batches)
        return [whole, *(replace(each, loss=loss(problem, each)) for each in cheaper)]
