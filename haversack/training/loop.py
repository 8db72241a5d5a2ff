"""The loop: batches, steps, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from haversack.batches import Batch
from haversack.errors import RecipeError, TrainingError
from haversack.model import Model
from haversack.progress import note, track
from haversack.task import Task
from haversack.training.learner import Learner, Masks, samples
from haversack.training.machine import seeded, these_processes
from haversack.training.resume import Position, Resumable
from haversack.training.settings import Training


def trained(model: Model, task: Task, epochs: int, *, learning_rate: float, seed: int) -> Model:
    """The model as `finetune` trains it for so many epochs, all else as usual; the model itself for none."""
    if not epochs:
        return model
    return model.with_module(finetune(model, task, Training(epochs, learning_rate, seed=seed)))


def finetune(model: Model, task: Task, training: Training, masks: Masks | None = None) -> nn.Module:
    """A trained copy of the model's network, in evaluation mode, on the device where the model's is.

    The teacher is `model.teacher`, the network as the user handed it in; without one the data's labels teach alone.
    Zeros of the weights in `model.sparse` stay zero; `masks` may decide otherwise while the network trains.
    Under `torchrun` all processes train together (see machine.py). Within `checkpoints_in` a training that was
    killed goes on from its last checkpoint; one with `masks`, whose memory nobody can write down, starts anew.

    A loss or gradient that is not finite stops the training: the weights of the last epoch that went well come out, and
    that is said. Raises TrainingError where there is no such epoch (or with `masks`, whose work is half done then), no
    data, or nothing to train; RecipeError for settings that do not fit the task or the teacher.
    """
    _check(task, training)
    with seeded(training.seed):
        learner = Learner(model, task, training, masks, these_processes())
        _train(learner)
        return learner.finished()


def _check(task: Task, training: Training) -> None:
    if training.label_smoothing and (task.kind != "classification" or task.loss is not None):
        whose = "a loss of its own" if task.loss is not None else "no classes"
        raise RecipeError(f"labels cannot be smoothed: the task has {whose}.", mend="set label_smoothing to 0.")


def _train(learner: Learner) -> None:
    """All steps of a training, from where an earlier run of it was killed."""
    batches = _counted(learner)
    steps, place = max(1, learner.training.epochs * batches), Position()
    resumable = Resumable(learner, place, batches)
    resumable.resume()
    for batch in track(_batches(learner, place), "fine-tuning", steps - place.step):
        trouble = learner.step(batch, place.step, steps)
        if trouble:
            _stop(learner, f"{trouble} at step {place.step}")
            break
        place.advance()
        resumable.keep()
    resumable.finish()


def _batches(learner: Learner, place: Position) -> Iterator[Batch]:
    """The batches of all epochs that are left."""
    while place.epoch < learner.training.epochs:
        for batch in place.batches(learner.task):
            if not samples(batch):
                raise TrainingError("a batch is empty.", where="train()", mend="yield batches that hold samples.")
            yield batch
        learner.end_epoch()


def _stop(learner: Learner, trouble: str) -> None:
    """Says with which weights the training ends. Raises TrainingError where there are no good ones."""
    mend = "lower learning_rate, or check the data for NaN."
    if learner.is_masked or not learner.epochs:
        raise TrainingError(f"{trouble}.", mend=mend)
    note(f"{trouble}: the training ends with the weights of epoch {learner.epochs}. How to mend it: {mend}")


def _counted(learner: Learner) -> int:
    """Batches of one epoch: the schedule and the progress bar need to know."""
    task = learner.task
    try:
        count = len(task.train())  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001 - it has no length, or it fails: then going through it says how
        count = sum(1 for _ in task.epoch())
    if count == 0:
        raise TrainingError("train() yielded no batches.", mend="let train() yield (inputs, target) batches.")
    if learner.processes.mean(count) != count:
        raise TrainingError(
            f"train() yields {count} batches here and another number in another process.",
            mend="let train() yield the same batches in every process: each takes its own part of them.",
        )
    return count
