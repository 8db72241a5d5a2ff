"""The one training loop that steps share: a network learns from the data and from its teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import RecipeError, TrainingError
from haversack.model import Model
from haversack.progress import track
from haversack.task import Batch, Kind, Task, has_target, unpack

Optimizer = Literal["sgd", "adam"]
Tensors = Mapping[str, Tensor]


class Masks(Protocol):
    """Which weights stay zero, decided anew while a network trains."""

    def __call__(self, weights: Tensors, share_done: float) -> Tensors:
        """True where a weight stays, by name, for the step that ends when `share_done` of the training is.

        Asked after each backward pass, so that the weights' gradients are there; the last `share_done` is 1. The
        weights are the network's own parameters: what comes back to life may be written into them.
        """
        ...


@dataclass(frozen=True)
class Training:
    """How long and how hard to train.

    SGD with Nesterov momentum, or Adam (Kingma 2015) where parameters differ in scale, as folded weights and steps do;
    the learning rate rises over the first tenth and falls to zero as a cosine (Loshchilov 2017). `distillation` is the
    share of the loss that comes from the teacher's outputs.
    """

    epochs: int = 2
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    distillation: float = 0.7
    temperature: float = 3.0
    seed: int = 0
    optimizer: Optimizer = "sgd"


def check_settings(epochs: int, learning_rate: float, *, example: float) -> None:
    """Raises RecipeError, which names the setting, where a step cannot train so; `example` is a rate that can be."""
    if not isinstance(epochs, int) or epochs < 0:
        raise RecipeError(f"epochs is {epochs}.", mend="write a whole number from 0 up.")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise RecipeError(f"learning_rate is {learning_rate}.", mend=f"write a number above 0, such as {example}.")


def finetune(model: Model, task: Task, training: Training, masks: Masks | None = None) -> nn.Module:
    """A trained copy of the model's network, in evaluation mode.

    The teacher is `model.teacher`, the network as the user handed it in; without one the data's labels teach alone.
    Zeros of the weights in `model.sparse` stay zero; `masks` may decide otherwise while the network trains.
    Raises TrainingError when there is no data, nothing to train, or the loss stops being finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return _trained(model, task, training, masks)


def _trained(model: Model, task: Task, training: Training, masks: Masks | None) -> nn.Module:
    student = _laid_out(copy.deepcopy(model.module), torch.channels_last).train()
    teacher = None
    if model.teacher is not None:
        teacher = _laid_out(copy.deepcopy(model.teacher), torch.channels_last).eval()
    optimizer, zeros = _optimizer(student, training), _Zeros(student, model.sparse, masks)
    batches = _counted(task)
    steps = max(1, training.epochs * batches)
    for step, batch in enumerate(track(_epochs(task, training.epochs), "fine-tuning", steps)):
        _set_rate(optimizer, training.learning_rate * _schedule(step / steps))
        loss = _loss(student, teacher, batch, task, training)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step}.", mend="lower learning_rate, or check the data for NaN."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        zeros.before_step((step + 1) / steps)
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        zeros.after_step()
    return _laid_out(student, torch.contiguous_format).eval()


class _Zeros:
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


def _loss(student: nn.Module, teacher: nn.Module | None, batch: Batch, task: Task, training: Training) -> Tensor:
    inputs, target = unpack(batch)
    labelled = has_target(batch) or task.kind == "reconstruction"
    share = training.distillation if labelled else 1.0
    if teacher is None and not labelled:
        raise TrainingError("there is neither a target nor a teacher.", mend="let train() yield (inputs, target).")
    with _mixed_precision():
        outputs = student(*inputs).float()
    if teacher is None or share == 0:
        return task.error(outputs, target)
    with torch.no_grad(), _mixed_precision():
        taught = teacher(*inputs).float()
    distance = _distillation(outputs, taught, task.kind, training.temperature)
    return distance if share >= 1 else share * distance + (1 - share) * task.error(outputs, target)


def _distillation(outputs: Tensor, taught: Tensor, kind: Kind, temperature: float) -> Tensor:
    """Distance to the teacher: softened class probabilities (Hinton 2015), or the mean squared difference."""
    if kind != "classification":
        return F.mse_loss(outputs, taught)
    soft = F.log_softmax(outputs / temperature, dim=-1)
    wanted = F.log_softmax(taught / temperature, dim=-1)
    return F.kl_div(soft, wanted, reduction="batchmean", log_target=True) * temperature**2


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its kernels in `layout`: with channels innermost, CPUs train convolutions a quarter faster."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


def _mixed_precision() -> torch.autocast:
    """bfloat16 where the processor multiplies it (ResNet-20 trains twice as fast), float32 elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001


def _epochs(task: Task, epochs: int) -> Iterator[Batch]:
    for epoch in range(epochs):
        count = 0
        for count, batch in enumerate(task.epoch(), 1):  # noqa: B007 - counted for what follows
            yield batch
        if count == 0:
            raise TrainingError(
                f"train() yielded no batches in epoch {epoch}.", mend="let each call of train() start a new epoch."
            )


def _counted(task: Task) -> int:
    """Batches of one epoch: the schedule and the progress bar need to know."""
    try:
        count = len(task.train())  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - it has no length, or it fails: then going through it says how
        count = sum(1 for _ in task.epoch())
    if count == 0:
        raise TrainingError("train() yielded no batches.", mend="let train() yield (inputs, target) batches.")
    return count


def _schedule(share_done: float) -> float:
    warm_up = 0.1
    if share_done < warm_up:
        return (share_done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (share_done - warm_up) / (1 - warm_up)))


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    groups = _weight_groups(network, training.weight_decay)
    if training.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=training.learning_rate)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=True)


def _weight_groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Kernels decay; biases and normalisation weights do not."""
    kernels = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    if not kernels and not rest:
        raise TrainingError(
            "no parameter of the network requires a gradient.", mend="call network.requires_grad_(True) in network()."
        )
    return [{"params": kernels, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
