"""Student: the compact network that is to take the original's place, scaled to the budget and chosen by learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from haversack.batches import mapped
from haversack.device import Device
from haversack.errors import ExportError, HaversackError, InfeasibleError, NothingChangedError, RecipeError
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.limits import Budget, Miss
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.packing.workspace import Workspace
from haversack.plan.students import Counts, FamilyMember, Scaled, Student, Yardstick, halved, scaled
from haversack.progress import say
from haversack.runtimes import estimate
from haversack.task import Task
from haversack.techniques.adopt_student import AdoptStudent, Interface, families, interface
from haversack.training.teacher import distance

AUTO = "auto"
_SHARE = 60
"""The first short training is so small a part of the whole one."""
_TEMPERATURE = 4.0
"""Outputs are compared as softly as in the training."""


@dataclass(frozen=True)
class Vacancy:
    """The original's place: what a student must fit there, in the number format that it will be stored in.

    `measured` gives the limits that a student's file misses, before any training.
    """

    original: Model
    device: Device
    budget: Budget
    number_format: str
    measured: Callable[[FamilyMember], Sequence[Miss]]
    memory: Workspace | None = None
    """Where the members that were scaled are kept."""

    def students(self, name: str) -> tuple[Student, ...]:
        """The member of each family (`auto`), or of the one named, that just fits; nothing is trained.

        Estimates scale them, their files have the last word, and none needs as much as the original of what is limited.
        Raises RecipeError for an unknown family and for a network that no student can replace, NothingChangedError
        where the original fits as it is, InfeasibleError with the nearest member where no student fits.
        """
        names = self._families(name)
        self._check_tight()
        found = [each for each in map(self._scaled, names) if each is not None]
        if not any(each.fits for each in found):
            raise self._too_large(found, names)
        return tuple(Student(each.member, each.counts) for each in found if each.fits)

    def _families(self, name: str) -> tuple[str, ...]:
        fitting = families(self._taken)
        if name == AUTO:
            return fitting
        AdoptStudent(name).check_family(self._taken)
        return (name,)

    def _check_tight(self) -> None:
        """A student that need not be smaller than the original is none."""
        judged = [each for each in self._needs.judged(self.budget) if each.limit.judged_by != "samples"]
        if all(each.state in ("met", "in part") for each in judged):
            raise NothingChangedError(
                f"by estimate the network itself meets all limits in {self.number_format}, and needs no student.",
                mend="set a tighter limit, or leave --student out.",
            )

    def _scaled(self, family: str) -> Scaled | None:
        words = (family, self._taken, self.device, self._limits, self.budget, self._most, self.number_format)
        if self.memory is None:
            return self._fitted(family)
        kept = self.memory.note(Scaled, *words, self.memory.measuring)
        if kept is None:
            kept = self._fitted(family)
            if kept is not None:
                self.memory.keep_note(kept, *words, self.memory.measuring)
        return kept

    def _fitted(self, family: str) -> Scaled | None:
        say(f"scaling {family}")
        try:
            return scaled(family, min(self._taken.extent), self._yardstick)
        except ExportError as error:
            say(f"{family} is left out: {error.what}")
            return None

    @cached_property
    def _taken(self) -> Interface:
        return interface(self.original)

    @cached_property
    def _needs(self) -> Measurement:
        return self._weighed(self.original.module, self.original.example)

    @cached_property
    def _yardstick(self) -> Yardstick:
        return Yardstick(cache(self._counts), self._most, self._estimated, self.measured)

    def _weighed(self, network: nn.Module, example: tuple[Tensor, ...]) -> Measurement:
        return estimate.weigh(cost(trace(network, example)), self.device, self.number_format)

    @cached_property
    def _limits(self) -> Budget:
        """The budget, with what the original needs in place of limits that are looser still."""
        needs = {limit: self._needs.figure(limit) for limit in self.budget.asked}
        return self.budget.tightened({limit: needed.worst for limit, needed in needs.items() if needed})

    @cached_property
    def _most(self) -> Counts:
        """What no member that fits has more of: the original's counts, or as much as the flash and the time allow.

        Integers are taken for twice as fast as floats at best.
        """
        whole, room, ratio = _counted(self.original.module, *self.original.example), math.inf, 1.0
        small = 1 if self.number_format == "int8" else 4
        if self.budget.flash_bytes is not None:
            room = self.budget.flash_bytes / small
        if self.budget.latency_ratio is not None:
            ratio = min(1.0, self.budget.latency_ratio * (2 if small == 1 else 1))
        return Counts(int(min(whole.parameters, room)), int(whole.macs * ratio))

    def _counts(self, member: FamilyMember) -> Counts | None:
        try:
            return _counted(self._built(member), self._example)
        except RecipeError:
            return None  # the family has no such member, or the input is too small for it

    def _estimated(self, member: FamilyMember) -> Sequence[Miss]:
        return self._weighed(self._built(member), (self._example,)).misses(self._limits)

    def _built(self, member: FamilyMember) -> nn.Module:
        with torch.device("meta"):
            return AdoptStudent(**asdict(member)).network(self._taken).eval()

    def _too_large(self, found: Sequence[Scaled], names: Sequence[str]) -> InfeasibleError:
        nearest = min(found, key=lambda each: each.counts.parameters, default=None)
        if nearest is None:
            what = ", ".join(names) or "none is built for their dimensions"
            return InfeasibleError(f"no family has a member for these inputs: {what}.", mend="leave --student out.")
        misses = self._estimated(nearest.member) or self.measured(nearest.member)
        missed = "; ".join(str(miss) for miss in misses)
        return InfeasibleError(
            f"no student fits. The smallest ({nearest.member.family}, {nearest.counts.parameters:,} parameters and "
            f"{nearest.counts.macs:,} MACs) {f'misses {missed}' if missed else 'has more than the network itself'}.",
            mend="raise that limit, or leave --student out.",
        )

    @property
    def _example(self) -> Tensor:
        return self.original.example[0].to("meta")


@dataclass(frozen=True)
class Audition:
    """A short training of each student; `learned` gives the model that a step makes of the original."""

    original: Model
    task: Task
    learned: Callable[[AdoptStudent], Model]
    whole: AdoptStudent
    """The training that the winner will get: its epochs, rate and seed."""

    def ranked(self, students: Sequence[Student]) -> tuple[Student, ...]:
        """The students, those first whose outputs come closest to the original's on the calibration inputs."""
        first = max(1, self.whole.epochs // _SHARE)
        return halved(students, self._distance, first, max(1, self.whole.epochs))

    def _distance(self, member: FamilyMember, epochs: int) -> float:
        try:
            network = self.learned(replace(step_of(self.whole, member), epochs=epochs)).module
        except HaversackError as error:
            say(f"{member.family} is left out: {error.what}")
            return math.inf
        return outputs_apart(network, self.original.teacher or self.original.module, self.task)


def step_of(whole: AdoptStudent, member: FamilyMember) -> AdoptStudent:
    """The step that adopts a member and trains it as `whole` does."""
    return replace(whole, **asdict(member))


@torch.no_grad()
def outputs_apart(network: nn.Module, teacher: nn.Module, task: Task) -> float:
    """The mean distance of two networks' outputs on the calibration inputs; infinite where it is not finite."""
    total, samples = 0.0, 0
    for inputs in task.calibration():
        outputs, taught = (mapped(Tensor.float, each(*inputs)) for each in (network, teacher))
        far = distance(outputs, taught, None, task.kind, "kd", _TEMPERATURE)
        total, samples = total + far.item() * len(inputs[0]), samples + len(inputs[0])
    return total / samples if math.isfinite(total) else math.inf


@torch.no_grad()
def _counted(network: nn.Module, *example: Tensor) -> Counts:
    with FlopCounterMode(display=False) as counter:
        network(*example)
    return Counts(sum(each.numel() for each in network.parameters()), counter.get_total_flops() // 2)
