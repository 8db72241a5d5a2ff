"""A network while it learns: one step on one batch, the end of an epoch, and what comes out."""

from __future__ import annotations

import copy
import math
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from haversack.errors import TrainingError
from haversack.finetune.average import Average
from haversack.finetune.best import Best
from haversack.finetune.features import feature_lesson
from haversack.finetune.lessons import Lessons
from haversack.finetune.optimizer import optimizer, set_rate
from haversack.finetune.outputs import check_outputs
from haversack.finetune.processes import Processes
from haversack.finetune.randomness import seeded, unheard
from haversack.finetune.remembered import Memory, Remembered, memory_of
from haversack.finetune.settings import Training
from haversack.finetune.zeros import Masks, Zeros
from haversack.graph.named_tensors import Tensors, named_tensors
from haversack.model import Model
from haversack.task import Batch, Task, brief, unpack


class Learner:
    """A copy of a model's network, with all that a training changes: weights, the optimizer's memory, averages."""

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
        self.lessons = Lessons(self.student.train(), teacher, task, training, features)
        processes.spread(named_tensors(self.student).values())
        self._trained = [*self.student.parameters(), *self._regressors.parameters()]
        self._optimizer = optimizer(self.student, training, self._regressors)
        self._zeros = Zeros(self.student, model.sparse, masks)
        self._average = Average(training.average, named_tensors(self.student)) if training.average else None
        self.best = Best(named_tensors(self.student))

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
        if self._average is not None:
            self._average.step(named_tensors(self.student))
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
        """Scores the weights where `patience` asks for it, and keeps them if they are to be kept."""
        if self._taught is not None:
            self._taught.end_epoch()
        weights = self._weights()
        self.best.take(weights, self._score(weights) if self.training.patience else None)

    @property
    def has_given_up(self) -> bool:
        """Whether the score has not risen for as many epochs as `patience` says."""
        return 0 < self.training.patience <= self.best.epochs_since

    def _weights(self) -> Tensors:
        """The weights that would come out now, the same in all processes."""
        weights = named_tensors(self.student) if self._average is None else self._average.values
        self.processes.merge({name: weights[name] for name, _ in self.student.named_buffers()})
        return weights

    def _score(self, weights: Tensors) -> float:
        own = {name: tensor.detach().clone() for name, tensor in named_tensors(self.student).items()}
        _fill(self.student.eval(), weights)
        with unheard():
            score = self.processes.mean(self.task.scored(self._predict))
        _fill(self.student.train(), own)
        return score

    @torch.no_grad()
    def _predict(self, *inputs: Tensor) -> Tensor:
        outputs: Tensor = self.student(*_on(self.processes.device, inputs))
        return outputs.cpu()

    def finished(self) -> nn.Module:
        """The network with the best weights, as it was before in all else, in evaluation mode."""
        if self.best.epoch:
            _fill(self.student, self.best.weights)
            self._zeros.after_step()  # an average remembers what was not zero yet
        return _laid_out(self.student, torch.contiguous_format).to(self._home).eval()

    def state(self) -> dict[str, Tensor]:
        """All that the steps changed, by name: the training goes on from it to the bit."""
        self._weights()
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
        parts = {"student": named_tensors(self.student), "best": self.best.state}
        parts["regressors"] = named_tensors(self._regressors)
        if self._average is not None:
            parts["average"] = self._average.state
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
