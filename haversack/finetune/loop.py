"""The loop: batches, steps, and what is wrong with them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import nn

from haversack.errors import TrainingError
from haversack.finetune.lessons import Lessons
from haversack.finetune.optimizer import optimizer, set_rate
from haversack.finetune.settings import Training
from haversack.finetune.zeros import Masks, Zeros
from haversack.model import Model
from haversack.progress import track
from haversack.task import Batch, Task


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
    lessons = Lessons(student, teacher, task, training)
    optimized, zeros = optimizer(student, training), Zeros(student, model.sparse, masks)
    batches = _counted(task)
    steps = max(1, training.epochs * batches)
    for step, batch in enumerate(track(_epochs(task, training.epochs), "fine-tuning", steps)):
        set_rate(optimized, training, step / steps)
        loss = lessons.loss(batch)
        if not math.isfinite(loss.item()):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step}.", mend="lower learning_rate, or check the data for NaN."
            )
        optimized.zero_grad(set_to_none=True)
        loss.backward()
        zeros.before_step((step + 1) / steps)
        nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimized.step()
        zeros.after_step()
    return _laid_out(student, torch.contiguous_format).eval()


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """The network with its kernels in `layout`: with channels innermost, CPUs train convolutions a quarter faster."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return network


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
