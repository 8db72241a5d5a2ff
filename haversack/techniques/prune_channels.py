"""Whole channels are removed until the network costs a given fraction of what it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import torch

from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError, SurgeryError
from haversack.finetune import Training, finetune
from haversack.graph.channel_cost import ChannelCost, Counts, Measure, channel_cost
from haversack.graph.groups import ChannelGroup, Groups, channel_groups
from haversack.graph.importance import Importance, Scores, bn_scale, l2, taylor
from haversack.graph.statistics import with_corrected_statistics
from haversack.graph.surgery import edit, edits_for
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.recipe import Stage
from haversack.task import Task

# (group, rung it stands on, cost that the step saves) -> what the step costs; the lowest is taken.
Price = Callable[[int, int, float], float]


@dataclass(frozen=True)
class PruneChannels:
    """The network with its least important channels removed, then fine-tuned with the original as its teacher.

    `keep` is the fraction that is left of the multiply-accumulates, the parameters or the estimated latency (`of`).
    `importance` is the kernels' norm (`l2`, Li et al. 2017), the batch norm scale (`bn_scale`, Liu et al. 2017) or the
    first-order change of the loss (`taylor`, Molchanov et al. 2019). With `scope` `global` the channels that matter
    least for what they cost go first, wherever they are; with `layer` all layers shrink alike. Layers keep a multiple
    of `multiple` channels, and at least `min_share` of them; layers narrower than `multiple` stay whole.
    """

    keep: float = 0.7
    of: Measure = "macs"
    importance: Importance = "taylor"
    scope: str = "global"
    multiple: int = 1
    min_share: float = 0.2
    epochs: int = 2
    learning_rate: float = 0.05
    seed: int = 0

    stage: ClassVar[Stage] = Stage.STRUCTURE

    def __post_init__(self) -> None:
        if not 0 < self.keep < 1:
            raise RecipeError(f"keep is {self.keep}.", mend="write the fraction to keep, such as 0.7.")
        if not 0 < self.min_share <= 1:
            raise RecipeError(f"min_share is {self.min_share}.", mend="write a share above 0 and up to 1, such as 0.2.")
        for name, allowed in (
            ("of", ("macs", "parameters", "latency")),
            ("importance", ("l2", "bn_scale", "taylor")),
            ("scope", ("global", "layer")),
        ):
            if getattr(self, name) not in allowed:
                raise RecipeError(f"{name} is '{getattr(self, name)}'.", mend=f"choose from: {', '.join(allowed)}.")
        for name, least in (("multiple", 1), ("epochs", 0)):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise RecipeError(f"{name} is {getattr(self, name)}.", mend=f"write a whole number from {least} up.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise RecipeError(f"learning_rate is {self.learning_rate}.", mend="write a number above 0, such as 0.05.")

    def apply(self, model: Model, task: Task) -> Model:
        """The smaller model, trained for `epochs`; edits and teacher follow.

        Raises RecipeError, naming the smallest fraction in reach, when `keep` lies below it.
        """
        ladder = self._ladder(model)
        edits = edits_for(model.module, ladder.groups, self._kept(ladder, self._scores(model, ladder.groups, task)))
        small = replace(model.with_module(edit(model.module, edits), edits), teacher=model.teacher or model.module)
        _check_runs(small, model)
        if not self.epochs:
            return small.with_module(with_corrected_statistics(small.module, model.module, edits, task.calibration()))
        training = Training(epochs=self.epochs, learning_rate=self.learning_rate, seed=self.seed)
        return small.with_module(finetune(small, task, training))

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the parameters, then of the estimated latency, that are in reach here; each mildest first."""
        if model.grids:
            return ()
        try:
            return tuple(step for of in ("parameters", "latency") for step in cls._reachable(of, model, device))
        except NothingChangedError:
            return ()

    @classmethod
    def _reachable(cls, of: Measure, model: Model, device: Device) -> Iterable[Self]:
        mildest = cls(of=of, multiple=device.channel_multiple)
        smallest = mildest._ladder(model).smallest
        return (replace(mildest, keep=keep / 100) for keep in range(95, 15, -5) if keep / 100 >= smallest)

    def _ladder(self, model: Model) -> _Ladder:
        read = trace(model.module, model.example)
        found = channel_groups(read, model.module)
        rungs = [_rungs(model, group, self.multiple, self.min_share) for group in found.groups]
        if all(len(each) == 1 for each in rungs):
            raise NothingChangedError(*_why_nothing(found, self))
        model_of_cost = channel_cost(read, model.module, found.groups, self.of, self.multiple)
        return _Ladder(found.groups, rungs, model_of_cost)

    def _scores(self, model: Model, groups: Sequence[ChannelGroup], task: Task) -> list[Scores]:
        if self.importance == "taylor":
            return taylor(model.module, groups, task, self.seed)
        return _comparable((l2 if self.importance == "l2" else bn_scale)(model.module, groups))

    def _kept(self, ladder: _Ladder, scores: list[Scores]) -> list[Sequence[int]]:
        """The channels of each group that stay: the most important ones, as many as the budget of cost allows."""
        if self.keep < ladder.smallest:
            raise RecipeError(
                f"keep is {self.keep}, but the smallest fraction of {self.of} in reach is {ladder.smallest:.3f}.",
                mend="keep more, or lower multiple or min_share.",
            )
        steps = ladder.descend(self.keep, self._price(ladder, scores))
        order = [np.argsort(-each, kind="stable") for each in scores]
        return [sorted(ranked[:count].tolist()) for ranked, count in zip(order, ladder.kept(steps), strict=True)]

    def _price(self, ladder: _Ladder, scores: list[Scores]) -> Price:
        """What a group's next step down costs, given what it saves.

        Taylor scores are changes of the loss, so they may be held against savings; norms only rank channels (ResNet-20
        at 0.8 of its MACs, not trained, batch statistics measured again, 1,000 test images: Taylor 86.0 % so and 85.3 %
        otherwise, l2 76.6 % so and 84.1 % otherwise).
        """
        losses = [ladder.losses(place, each) for place, each in enumerate(scores)]
        if self.scope == "layer":
            return lambda place, step, _: -ladder.rungs[place][step] / ladder.groups[place].size
        if self.importance == "taylor":
            return lambda place, step, saved: losses[place][step] / saved
        gone = [-np.diff(rungs) for rungs in ladder.rungs]
        return lambda place, step, _: losses[place][step] / gone[place][step]


@dataclass(frozen=True)
class _Ladder:
    """How many channels each group may keep, most first, and what that costs."""

    groups: Sequence[ChannelGroup]
    rungs: Sequence[Sequence[int]]
    cost: ChannelCost

    @property
    def smallest(self) -> float:
        """The smallest fraction of the cost in reach."""
        return self.cost.of(self.kept([-1] * len(self.rungs))) / self.cost.of(self.kept([0] * len(self.rungs)))

    def kept(self, steps: Sequence[int]) -> Counts:
        """The channel counts on these rungs."""
        return np.array([rungs[step] for rungs, step in zip(self.rungs, steps, strict=True)], dtype=np.int64)

    def losses(self, place: int, scores: Scores) -> Scores:
        """The importance that each rung of a group gives up against the one before it."""
        ranked = np.concatenate([[0.0], np.cumsum(np.sort(scores))])
        gone = [self.groups[place].size - kept for kept in self.rungs[place]]
        return np.diff(ranked[gone])

    def descend(self, keep: float, price: Price) -> list[int]:
        """The rung of each group at which the cost is just below `keep`.

        Always takes the step of the lowest price; then takes those back that turn out not to be needed, dearest first.
        """
        steps = [0] * len(self.rungs)
        target = keep * self.cost.of(self.kept(steps))
        taken: list[int] = []
        while self.cost.of(self.kept(steps)) > target:
            place = self._cheapest(steps, price)
            steps[place] += 1
            taken.append(place)
        for place in reversed(taken):
            steps[place] -= 1
            if self.cost.of(self.kept(steps)) > target:
                steps[place] += 1
        return steps

    def _cheapest(self, steps: list[int], price: Price) -> int:
        kept = self.kept(steps)
        below = self.kept([min(step + 1, len(rungs) - 1) for step, rungs in zip(steps, self.rungs, strict=True)])
        saved = self.cost.savings(kept, kept - below)
        # Blocked kernels: a step that saves nothing by itself may open the way for another one. Dear, not impossible.
        least = max(float(saved.max()), 1.0) * 1e-9
        return min(
            np.flatnonzero(kept > below).tolist(),
            key=lambda place: price(place, steps[place], max(float(saved[place]), least)),
        )


def _rungs(model: Model, group: ChannelGroup, multiple: int, min_share: float) -> list[int]:
    """The counts that a group may keep: whole multiples for the layer that makes it, about 32 steps at most."""
    first = group.members[0]
    width = dict(_named(model))[first.tensor].shape[first.dim]
    taken = len(first.indices[0])
    fitting = (gone for gone in range(1, group.size) if (width - gone * taken) % multiple == 0)
    start, floor = next(fitting, group.size), max(group.least, math.ceil(min_share * group.size))
    if width < multiple:
        return [group.size]
    pitch = multiple // math.gcd(multiple, taken)
    pitch *= max(1, group.size // (32 * pitch))
    return [group.size, *range(group.size - start, floor - 1, -pitch)]


def _comparable(scores: list[Scores]) -> list[Scores]:
    """Scores in units of their group's mean: norms of different layers have different sizes."""
    return [each / max(float(each.mean()), 1e-30) for each in scores]


def _named(model: Model) -> Iterable[tuple[str, torch.Tensor]]:
    yield from model.module.named_parameters(remove_duplicate=False)
    yield from model.module.named_buffers(remove_duplicate=False)


def _check_runs(small: Model, model: Model) -> None:
    """Code that counts channels in a way that the graph does not show fails here, not at the user's."""
    with torch.no_grad():
        wanted = model.module(*model.example)
        try:
            found = small.module(*model.example)
        except Exception as error:
            raise SurgeryError(
                f"the pruned network does not run: {type(error).__name__}: {error}.",
                mend="let forward() read channel counts off its tensors instead of spelling them.",
            ) from error
    if getattr(wanted, "shape", None) != getattr(found, "shape", None):
        raise SurgeryError("the pruned network's output has another shape than the original's.")


def _why_nothing(found: Groups, step: PruneChannels) -> tuple[str]:
    if found.groups:
        widest = max(group.size for group in found.groups)
        return (f"no layer can lose {step.multiple} channels: the widest prunable group has {widest}.",)
    reasons = "; ".join(f"{each.layer}: {each.reason}" for each in found.pinned[:3])
    return (f"no channel of this network can go ({reasons or 'it has no layers with channels'}).",)
