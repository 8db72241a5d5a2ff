"""A network while it learns: what it is told about each batch, one step on it, the end of an epoch, and what comes out.

KeptZeros that pruning put into weights stay zero.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from haversack.batches import Batch, Outputs, each_of, has_target, mapped, unpack
from haversack.errors import TrainingError
from haversack.graph.run import Tensors, named_tensors
from haversack.model import Model
from haversack.positions import Mask, that_count
from haversack.task import Task, brief
from haversack.training.features import FeatureLesson, feature_lesson
from haversack.training.machine import Processes, mixed_precision, seeded
from haversack.training.pairs import results_of
from haversack.training.settings import Training, optimizer, set_rate
from haversack.training.teacher import Memory, Remembered, check_outputs, distance, memory_of
from haversack.wiring import mask_of


@dataclass(frozen=True)
class Lessons:
    """The loss of a batch. Without a teacher the labels teach alone, without labels the teacher does."""

    student: nn.Module
    teacher: nn.Module | None
    task: Task
    training: Training
    features: FeatureLesson | None = None
    mask: Mask | None = None
    """Which positions the teacher is asked about; all without one."""

    def loss(self, batch: Batch) -> Tensor:
        """A scalar to be made small. Raises TrainingError where neither a target nor a teacher is there."""
        inputs, target = unpack(batch)
        labelled = has_target(batch) or self.task.kind == "reconstruction"
        share = self.training.distillation if labelled else 1.0
        if self.teacher is None and not labelled:
            raise TrainingError("there is neither a target nor a teacher.", mend="let train() yield (inputs, target).")
        outputs, ours = self._run(self.student, inputs, self.features.paths[0] if self.features else ())
        if self.teacher is None or (share == 0 and self.features is None):
            return self.task.error(outputs, target, self.training.label_smoothing)
        with torch.no_grad():
            taught, theirs = self._run(self.teacher, inputs, self.features.paths[1] if self.features else ())
        loss = self._of_outputs(outputs, taught, batch, share)
        return loss if self.features is None else loss + self.training.feature_weight * self.features(ours, theirs)

    def _of_outputs(self, outputs: Outputs, taught: Outputs, batch: Batch, share: float) -> Tensor:
        """The loss of outputs of which the teacher has a `share`, and the target the rest."""
        inputs, target = unpack(batch)
        loss = torch.zeros((), device=each_of(outputs)[0].device)
        if share > 0:
            known = target if has_target(batch) else None
            ways = (self.task.kind, self.training.outputs, self.training.temperature)
            ours, theirs = (that_count(self.mask, each, inputs) for each in (outputs, taught))
            known = known if self.mask is None else self.mask.kept_targets(known, inputs)
            loss = loss + share * distance(ours, theirs, known, *ways)
        if share < 1:
            loss = loss + (1 - share) * self.task.error(outputs, target, self.training.label_smoothing)
        return loss

    def _run(
        self, network: nn.Module, inputs: tuple[Tensor, ...], paths: Sequence[str]
    ) -> tuple[Outputs, Mapping[str, Any]]:
        """What the network gives, and what its layers at `paths` do."""
        precision = mixed_precision(inputs[0].device.type) if self.training.mixed_precision else nullcontext()
        with precision, results_of(network, paths) as results:
            outputs = mapped(Tensor.float, network(*inputs))
        return outputs, results


class Masks(Protocol):
    """Which weights stay zero, decided anew while a network trains."""

    def __call__(self, weights: Tensors, share_done: float) -> Tensors:
        """True where a weight stays, by name, for the step that ends when `share_done` of the training is.

        Asked after each backward pass, so that the weights' gradients are there; the last `share_done` is 1. The
        weights are the network's own parameters: what comes back to life may be written into them.
        """
        ...


class KeptZeros:
    """Keeps zeros zero: their gradients neither count in the clipping nor gather momentum."""

    def __init__(self, network: nn.Module, sparse: frozenset[str], masks: Masks | None) -> None:
        self._weights = dict(network.named_parameters(remove_duplicate=False))
        self._masks = masks
        self._kept: Tensors = {name: self._weights[name] != 0 for name in sparse & self._weights.keys()}

    @torch.no_grad()
    def before_step(self, share_done: float) -> None:
        """Clears the gradients of all that stays zero."""
        if self._masks is not None:
            self._kept = self._masks(self._weights, share_done)
        for name, kept in self._kept.items():
            gradient = self._weights[name].grad
            if gradient is not None:
                gradient.mul_(kept)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clears what the optimizer's memory of earlier steps moved away from zero."""
        for name, kept in self._kept.items():
            self._weights[name].mul_(kept)


class Learner:
    """A copy of a model's network, with all that a training changes: weights and the optimizer's memory."""

    def __init__(self, model: Model, task: Task, training: Training, masks: Masks | None, processes: Processes) -> None:
        self.task, self.training, self.processes = task, training, processes
        self.is_masked = masks is not None
        self._home = next((each.device for each in model.module.parameters()), processes.device)
        self.student = _laid_out(copy.deepcopy(model.module).to(processes.device), torch.channels_last)
        teacher = model.teacher
        if teacher is not None:
            teacher = _laid_out(copy.deepcopy(teacher).to(processes.device), torch.channels_last).eval()
        example = _on(processes.device, model.example)
        check_outputs(self.student.eval(), teacher if training.distillation else None, example)
        features = feature_lesson(self.student, teacher, example, training)
        self._regressors = nn.Module() if features is None else features.to(processes.device)
        self._taught: Memory | None = None
        if teacher is not None and features is None:
            self._taught = memory_of(teacher, training.epochs, processes.index)
            teacher = Remembered(teacher, self._taught)
        mask = mask_of(model.teacher or model.module)
        self.lessons = Lessons(self.student.train(), teacher, task, training, features, mask)
        processes.spread(named_tensors(self.student).values())
        self._trained = [*self.student.parameters(), *self._regressors.parameters()]
        self._optimizer = optimizer(self.student, training, self._regressors)
        self._zeros = KeptZeros(self.student, model.sparse, masks)
        self._last = {name: tensor.detach().clone() for name, tensor in named_tensors(self.student).items()}
        self._epochs = torch.zeros((), dtype=torch.int64)

    def step(self, batch: Batch, step: int, steps: int) -> str:
        """Learns from a batch, at `step` of `steps`. What makes that impossible is returned, and nothing changes."""
        set_rate(self._optimizer, self.training, min(1.0, step / steps), samples(batch))
        loss = self._gradients(batch, step)
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        self._zeros.before_step(min(1.0, (step + 1) / steps))
        length = nn.utils.clip_grad_norm_(self._trained, self.training.clip or math.inf).item()
        if not math.isfinite(length):
            return f"the length of the gradient is {length}"
        self._optimizer.step()
        self._zeros.after_step()
        return ""

    def _gradients(self, batch: Batch, step: int) -> float:
        """The loss of a batch; its gradients are left in the parameters."""
        self._optimizer.zero_grad(set_to_none=True)
        part, loss = self.processes.part(batch), 0.0
        if samples(part):
            with self._own_randomness(step):
                share = self._loss(part) * (samples(part) / samples(batch))
                share.backward()
            loss = share.item()
        return self.processes.sum_gradients(self._trained, loss)

    def _loss(self, part: Batch) -> Tensor:
        try:
            return self.lessons.loss(part)
        except ValueError as error:
            if samples(part) > 1:
                raise
            raise TrainingError(
                f"the network cannot learn from a single sample: {brief(error)}.",
                where="train()",
                mend="yield larger batches (a last one of 1 can be left out); batch norm needs two values a channel.",
            ) from error

    def _own_randomness(self, step: int) -> AbstractContextManager[None]:
        """Each of several processes drops out others, while all draw the same data."""
        if self.processes.count == 1:
            return nullcontext()
        return seeded(hash((self.training.seed, step, self.processes.index)) % 2**63)

    def end_epoch(self) -> None:
        """Keeps the weights as they are now, in case that the next epoch goes wrong."""
        if self._taught is not None:
            self._taught.end_epoch()
        self._merge()
        self._epochs += 1
        for name, tensor in named_tensors(self.student).items():
            self._last[name].copy_(tensor.detach())

    @property
    def epochs(self) -> int:
        """How many epochs went well."""
        return int(self._epochs)

    def _merge(self) -> None:
        """Makes the statistics of all processes one; weights are the same in all of them."""
        self.processes.merge(dict(self.student.named_buffers()))

    def finished(self) -> nn.Module:
        """The network with the weights of the last whole epoch, as it was before in all else, in evaluation mode."""
        _fill(self.student, self._last)
        return _laid_out(self.student, torch.contiguous_format).to(self._home).eval()

    def state(self) -> dict[str, Tensor]:
        """All that the steps changed, by name: the training goes on from it to the bit."""
        self._merge()
        found = {f"optimizer/{name}": tensor for name, tensor in self._memory().items()}
        if self._taught is not None:
            found |= {f"taught/{name}": tensor for name, tensor in self._taught.state.items()}
        return found | self._in_place()

    @torch.no_grad()
    def restore(self, state: Tensors) -> None:
        """Takes on a state that was written down."""
        for name, tensor in self._in_place().items():
            tensor.copy_(state[name])
        for name, tensor in state.items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                parameter = self._optimized()[int(index)]
                like = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
                self._optimizer.state[parameter][key] = like.copy_(tensor)
        if self._taught is not None:
            self._taught.restore(
                {name.removeprefix("taught/"): tensor for name, tensor in state.items() if name.startswith("taught/")}
            )

    def _in_place(self) -> dict[str, Tensor]:
        """What is there from the first step on."""
        parts = {"student": named_tensors(self.student), "last": {**self._last, "/epochs": self._epochs}}
        parts["regressors"] = named_tensors(self._regressors)
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _memory(self) -> dict[str, Tensor]:
        """What the optimizer remembers of earlier steps."""
        remembered = [(index, self._optimizer.state.get(each, {})) for index, each in enumerate(self._optimized())]
        return {f"{index}/{key}": value for index, memory in remembered for key, value in memory.items()}

    def _optimized(self) -> list[nn.Parameter]:
        return [each for group in self._optimizer.param_groups for each in group["params"]]


def _on(device: torch.device, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.to(device) for each in inputs)


def samples(batch: Batch) -> int:
    """How many samples a batch holds."""
    return len(unpack(batch)[0][0])


@torch.no_grad()
def _fill(network: nn.Module, tensors: Tensors) -> None:
    for name, tensor in named_tensors(network).items():
        tensor.copy_(tensors[name])


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its kernels in `layout`: with channels innermost, CPUs train convolutions a quarter faster."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network
