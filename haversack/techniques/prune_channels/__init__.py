"""Whole channels are removed until the network costs a given fraction of what it did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from haversack.batches import each_of, unpack
from haversack.calibration.imitate import imitating
from haversack.calibration.statistics import with_corrected_statistics
from haversack.calibration.sweep import reconstructed
from haversack.channels.cost import Measure, channel_cost
from haversack.channels.group import edits_for
from haversack.channels.groups import ChannelGroup, Groups, channel_groups
from haversack.choices import Site
from haversack.device import Device
from haversack.errors import HaversackError, NothingChangedError, RecipeError, SurgeryError
from haversack.graph.run import Batches
from haversack.graph.trace import trace
from haversack.model import Edits, Model
from haversack.progress import note
from haversack.recipe import Choices, Stage, Step
from haversack.settings import Above, AtLeast, AtMost, Count, Fraction, Like, Positive, checked
from haversack.surgery.edit import edit
from haversack.task import Kinds, Task
from haversack.techniques.prune_channels.importance import Importance, Ranking, bn_scale, fpgm, l1, l2, taylor
from haversack.techniques.prune_channels.ladder import Ladder, MeasuredCost, Price, measured_cost, rungs
from haversack.techniques.prune_channels.narrowing import Widths
from haversack.techniques.prune_channels.order import second_order
from haversack.techniques.prune_channels.widths import counts_of, narrowed
from haversack.training import trained

Scope = Literal["global", "layer"]
Correct = Literal["least_squares", "statistics", "nothing"]
_SCORES = {"l1": l1, "l2": l2, "fpgm": fpgm, "bn_scale": bn_scale}
# So many training inputs stand in for calibration inputs where the task has none.
_INPUTS = 512
# A planner builds many networks: most of what imitation wins back comes in the first passes.
_PLANNED_PASSES = 4


@dataclass(frozen=True)
class PruneChannels(Step):
    """The network with its least important channels removed, corrected or fine-tuned with the original as its teacher.

    `keep` is the fraction that is left of the multiply-accumulates, the parameters or the latency (`of`); latency is
    measured on the device's runtime where there is one to measure on, and estimated elsewhere.

    `importance` ranks channels: by how well the others can stand in for them on the calibration inputs
    (`second_order`, see order.py), by the first-order change of the loss (`taylor`, Molchanov et al.
    2019, which needs labels), by their kernels' norms (`l1`, `l2`, Li et al. 2017), by the kernels' distance from each
    other (`fpgm`, He et al. 2019) or by batch norm's scales (`bn_scale`, Liu et al. 2017). With `scope` `global` the
    channels that matter least for what they cost go first, wherever they are; with `layer` all layers shrink alike.
    Layers keep a multiple of `multiple` channels, and at least `min_share` of them; layers narrower than `multiple`
    stay whole.

    `correct` says what makes up for the loss before any training: the layers' weights, refitted to the original's
    values (`least_squares`, see calibration/sweep.py), or the batch norms' statistics alone. Then the network learns
    in `imitate` passes over the calibration inputs, without labels, to repeat the original's values (see
    calibration/imitate.py). `epochs` of training with the task's data follow; with `rounds`, equal parts of pruning and
    training take turns.

    `widths` ("layer1.0.conv1=8") says instead how many channels are left of a group, which bears the name of the layer
    that makes them; groups that it does not name stay whole. Then `keep`, `of`, `scope`, `multiple`, `min_share` and
    `rounds` are not looked at.
    """

    keep: Fraction = 0.7
    of: Measure = "macs"
    importance: Importance = "second_order"
    scope: Scope = "global"
    multiple: Annotated[int, AtLeast(1)] = 1
    min_share: Annotated[float, Above(0), AtMost(1)] = 0.2
    correct: Correct = "least_squares"
    imitate: Count = 10
    rounds: Annotated[int, AtLeast(1)] = 1
    epochs: Count = 2
    learning_rate: Positive = 0.02
    seed: int = 0
    widths: tuple[Annotated[str, Like("(?s:.+)=[1-9][0-9]{0,8}", "layer1.0.conv1=8")], ...] = ()

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "keep"

    def __post_init__(self) -> None:
        checked(self)
        counts_of(self.widths)

    def apply(self, model: Model, task: Task) -> Model:
        """The smaller model, corrected and then trained for `epochs`; edits and teacher follow.

        Raises RecipeError, naming the smallest fraction in reach, when `keep` lies below it, and where `widths` names
        no group of the network or a count that the group cannot have.
        """
        for part in self._parts():
            small = replace(part._pruned(model, task), teacher=model.teacher or model.module)  # noqa: SLF001 - its own
            model = trained(small, task, part.epochs, learning_rate=part.learning_rate, seed=part.seed)
        return model

    def _parts(self) -> Iterable[Self]:
        """Steps of one round each, which together keep and train as much as this one."""
        if self.widths:
            yield replace(self, rounds=1)
            return
        keep, floor = self.keep ** (1 / self.rounds), self.min_share ** (1 / self.rounds)
        for done in range(self.rounds):
            epochs = self.epochs * (done + 1) // self.rounds - self.epochs * done // self.rounds
            yield replace(self, rounds=1, keep=keep, min_share=floor, epochs=epochs, seed=self.seed + done)

    def _pruned(self, model: Model, task: Task) -> Model:
        batches = _inputs(task) if self._reads_inputs else []
        edits = self._edits(model, task, batches)
        small = model.with_module(edit(model.module, edits), edits)
        _check_runs(small, model)
        if self.correct == "statistics":
            small = replace(small, module=with_corrected_statistics(small.module, model.module, edits, batches))
        elif self.correct == "least_squares":
            small = reconstructed(small, model, edits, batches)
        if not self.imitate:
            return small
        return imitating(small, model, edits, batches, passes=self.imitate, seed=self.seed)

    def _edits(self, model: Model, task: Task, batches: Batches) -> Edits:
        """What leaves the channels that shall stay, and no others."""
        if not self.widths:
            ladder = self._ladder(model)
            rankings = self._rankings(model, ladder.groups, task, batches)
            return edits_for(model.module, ladder.groups, self._kept(ladder, rankings))
        groups, counts = narrowed(channel_groups(trace(model.module, model.example), model.module), self.widths)
        if all(count == group.size for group, count in zip(groups, counts, strict=True)):
            raise NothingChangedError("widths leaves every channel.", mend="leave fewer of some group.")
        rankings = self._rankings(model, groups, task, batches)
        kept = [ranking.left(count) for ranking, count in zip(rankings, counts, strict=True)]
        return edits_for(model.module, groups, kept)

    @property
    def trains(self) -> bool:
        """Whether it needs training data: Taylor's scores do, too."""
        return self.epochs > 0 or self.importance == "taylor"

    @property
    def _reads_inputs(self) -> bool:
        return self.importance == "second_order" or self.correct != "nothing" or self.imitate > 0

    def skeleton(self) -> Self:
        """The same channels gone, and nothing done about what is left."""
        return replace(self, rounds=1, correct="nothing", imitate=0)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Fractions of the parameters, then of the latency, that are in reach by counting; each mildest first."""
        for of in () if model.grids else ("parameters", "latency"):
            mildest = cls(of=of, multiple=device.channel_multiple)
            try:
                smallest = mildest._ladder(replace(model, target=None)).smallest
            except NothingChangedError:
                return
            yield from (replace(mildest, keep=keep / 100) for keep in range(95, 15, -5) if keep / 100 >= smallest)

    @classmethod
    def choices(cls, model: Model, device: Device) -> Choices | None:
        """The widths that each channel group may have; None for a quantized network, and where no channel can go."""
        widths = None if model.grids else Widths.of(model, device.channel_multiple)
        return _Choices(widths) if widths and widths.groups else None

    def _ladder(self, model: Model) -> Ladder:
        read = trace(model.module, model.example)
        found = channel_groups(read, model.module)
        steps = [rungs(model.module, group, self.multiple, self.min_share) for group in found.groups]
        if all(len(each) == 1 for each in steps):
            raise NothingChangedError(*_why_nothing(found, self))
        measured = self._measured(model, found, steps)
        cost = measured or channel_cost(read, model.module, found.groups, self.of, self.multiple)
        return Ladder(found.groups, steps, cost)

    def _measured(self, model: Model, found: Groups, steps: Sequence[Sequence[int]]) -> MeasuredCost | None:
        if self.of != "latency" or model.target is None:
            return None
        try:
            return measured_cost(model, found.groups, steps)
        except HaversackError as error:
            note(f"latency is estimated, since it cannot be measured: {error}")
            return None

    def _rankings(
        self, model: Model, groups: Sequence[ChannelGroup], task: Task, batches: Batches
    ) -> Sequence[Ranking]:
        if self.importance == "second_order":
            return second_order(model, groups, batches)
        if self.importance == "taylor":
            return [Ranking.of(each) for each in taylor(model.module, groups, task, self.seed)]
        scores = _SCORES[self.importance](model.module, groups)
        # Norms of different layers have different sizes.
        return [Ranking.of(each / max(float(each.mean()), 1e-30)) for each in scores]

    def _kept(self, ladder: Ladder, rankings: Sequence[Ranking]) -> list[list[int]]:
        """The channels of each group that stay: the most important ones, as many as the budget of cost allows."""
        if self.keep < ladder.smallest:
            raise RecipeError(
                f"keep is {self.keep:.4g}, but the smallest fraction of {self.of} in reach is {ladder.smallest:.3f}.",
                mend="keep more, or lower multiple or min_share.",
            )
        return ladder.kept(ladder.descend(self.keep, self._price(ladder, rankings)), rankings)

    def _price(self, ladder: Ladder, rankings: Sequence[Ranking]) -> Price:
        """What a group's next step down costs, given what it saves.

        Taylor's scores and the curvature's are losses, so they may be held against savings; norms only rank channels
        (ResNet-20 at 0.8 of its MACs, not trained, batch statistics measured again, 1,000 test images: Taylor 86.0 % so
        and 85.3 % otherwise, l2 76.6 % so and 84.1 % otherwise).
        """
        losses = [ladder.losses(place, each) for place, each in enumerate(rankings)]
        if self.scope == "layer":
            return lambda place, step, _: -ladder.rungs[place][step] / ladder.groups[place].size
        if self.importance in ("taylor", "second_order"):
            return lambda place, step, saved: losses[place][step] / saved
        gone = [-np.diff(rungs) for rungs in ladder.rungs]
        return lambda place, step, _: losses[place][step] / gone[place][step]


@dataclass(frozen=True, eq=False)
class _Choices:
    """What a planner chooses from."""

    widths: Widths

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.widths.sites

    def losses(self, batches: Batches, kind: Kinds = "classification") -> list[tuple[float, ...]]:
        return self.widths.losses(batches, kind)

    def step(self, chosen: Sequence[int]) -> PruneChannels | None:
        named = self.widths.named(chosen)
        return PruneChannels(widths=named, imitate=_PLANNED_PASSES, epochs=0) if named else None


def _inputs(task: Task) -> list[tuple[Tensor, ...]]:
    """Calibration inputs, or some training inputs where the task has none."""
    if task.calibrate is not None:
        return task.calibration()
    found, count = [], 0
    for batch in task.epoch():
        inputs, _ = unpack(batch)
        found.append(inputs)
        count += len(inputs[0])
        if count >= _INPUTS:
            break
    return found


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
    if [each.shape for each in each_of(wanted)] != [each.shape for each in each_of(found)]:
        raise SurgeryError("the pruned network's output has another shape than the original's.")


def _why_nothing(found: Groups, step: PruneChannels) -> tuple[str]:
    if found.groups:
        widest = max(group.size for group in found.groups)
        return (f"no layer can lose {step.multiple} channels: the widest prunable group has {widest}.",)
    reasons = "; ".join(f"{each.layer}: {each.reason}" for each in found.pinned[:3])
    return (f"no channel of this network can go ({reasons or 'it has no layers with channels'}).",)
