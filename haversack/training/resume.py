"""Resume: a training that was killed goes on from where it was last written down, to the same weights.

It can be broken off at any batch: its checkpoint and its place in the data are written by one process and read by all.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from haversack.batches import Batch
from haversack.errors import TrainingError
from haversack.graph.run import Tensors, digest, named_tensors
from haversack.task import Task
from haversack.training.learner import Learner
from haversack.training.machine import generators, set_generators
from haversack.training.tensor_file import read_tensors, write_tensors

_FORMAT = f"2, torch {torch.__version__}"
_MOST_FILES = 4
"""What killed trainings leave behind that nobody comes back to; the oldest go."""


@dataclass(frozen=True)
class _Habit:
    folder: Path
    seconds: float


_habit: ContextVar[_Habit | None] = ContextVar("checkpoints", default=None)


@contextmanager
def checkpoints_in(folder: Path, seconds: float = 60.0) -> Iterator[None]:
    """Within this block, trainings write their state to `folder` every so many seconds, and go on from it.

    A training finds its own file by all that makes it: the weights of the network and its teacher, the settings, the
    number of batches. What else decides how it goes is for the caller to keep apart, by folders: the data themselves,
    the code of the network. A file is written aside and moved into place, so that it is whole or absent; one that is
    damaged is passed over. It goes when its training is finished, and of those that are left behind a few stay.
    """
    token = _habit.set(_Habit(Path(folder), seconds))
    try:
        yield
    finally:
        _habit.reset(token)


def checkpoint(tensors: Tensors, *words: object) -> Checkpoint | None:
    """The checkpoint of a training that starts from these tensors and that these words describe, if one is wanted."""
    habit = _habit.get()
    if habit is None:
        return None
    return Checkpoint(habit.folder / f"{digest(tensors, _FORMAT, *words)[:24]}.training", habit.seconds)


class Checkpoint:
    """The file of one training."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path, self._seconds, self._written = path, seconds, time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether enough time went by since the last one."""
        return time.monotonic() - self._written >= self._seconds

    def read(self) -> Tensors | None:
        """What was written, or None where there is nothing, or nothing sound."""
        return read_tensors(self._path)

    def write(self, tensors: Tensors) -> None:
        """Writes what to go on from. A full disk ends no training: it is said, and there is no checkpoint."""
        write_tensors(self._path, tensors, "the training's state")
        _tidy(self._path.parent)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Takes the file away, the training being finished, and the folder with the last one."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
            self._path.parent.rmdir()


def _tidy(folder: Path) -> None:
    """Leaves the youngest files, those that a kill left half written among them."""
    with suppress(OSError):
        files = sorted(
            (each for each in folder.iterdir() if ".training" in each.name), key=lambda each: each.stat().st_mtime
        )
        for each in files[:-_MOST_FILES]:
            each.unlink(missing_ok=True)


class Position:
    """The epoch, the batch of it and the step that come next; the first of each is 0."""

    def __init__(self) -> None:
        self.epoch, self.batch, self.step = 0, 0, 0
        self._begun: Tensors = {}
        self._now: Tensors = {}

    def batches(self, task: Task) -> Iterator[Batch]:
        """What is left of the epoch.

        Of an epoch that was broken off, the data are drawn anew from the random state that it began with, and what was
        learned from is passed over. So the order, and what is drawn at random for each batch in turn, are as they were.
        """
        if self._now:
            set_generators(self._begun)
        else:
            self._begun = generators()
        stream = task.epoch()
        for _ in islice(stream, self.batch):
            pass
        if self._now:
            set_generators(self._now)
            self._now = {}
        yield from stream
        if self.batch == 0:
            raise TrainingError(
                f"train() yielded no batches in epoch {self.epoch}.",
                mend="let each call of train() start a new epoch.",
            )
        self.epoch, self.batch = self.epoch + 1, 0

    def advance(self) -> None:
        """A batch was learned from."""
        self.batch, self.step = self.batch + 1, self.step + 1

    def state(self) -> dict[str, Tensor]:
        """The place and all random generators, to be written down."""
        numbers = torch.tensor([self.epoch, self.batch, self.step])
        begun = {f"begun/{name}": tensor for name, tensor in self._begun.items()}
        return {"place": numbers, **begun, **{f"now/{name}": tensor for name, tensor in generators().items()}}

    def restore(self, state: Tensors) -> None:
        """Goes to a place that was written down."""
        self.epoch, self.batch, self.step = (int(each) for each in state["place"])
        self._begun, self._now = (
            {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}
            for part in ("begun/", "now/")
        )


class Resumable:
    """A learner and its place among its data, which are written down together where checkpoints are wanted.

    With masks they are not: what masks remember of earlier steps is their own.
    """

    def __init__(self, learner: Learner, place: Position, batches: int) -> None:
        self._learner, self._place, self._processes = learner, place, learner.processes
        words = (learner.training, batches, learner.processes.count, learner.student)
        self._checkpoint = None if learner.is_masked else checkpoint(_start(learner), *words)

    def resume(self) -> None:
        """Goes on from the checkpoint, provided that all processes find the same one."""
        if self._checkpoint is None:
            return
        state = self._checkpoint.read()
        step = -1.0 if state is None else float(state["place"][-1])
        mean = self._processes.mean(step)
        if self._processes.mean(float(step != mean)) == 0 and state is not None:
            self._learner.restore(state)
            self._place.restore(state)

    def keep(self) -> None:
        """Writes a checkpoint when the first process finds that it is time."""
        if self._checkpoint is None:
            return
        is_first = self._processes.index == 0
        if self._processes.mean(float(is_first and self._checkpoint.is_due)) > 0:
            state = self._learner.state()
            if is_first:
                self._checkpoint.write(state | self._place.state())

    def finish(self) -> None:
        """Takes the checkpoint away."""
        if self._checkpoint is not None and self._processes.index == 0:
            self._checkpoint.remove()


def _start(learner: Learner) -> dict[str, Tensor]:
    """What a training starts from: the weights of the network and its teacher."""
    networks = {"student": learner.student, "teacher": learner.lessons.teacher}
    there = {kind: named_tensors(network) for kind, network in networks.items() if network is not None}
    return {f"{kind}/{name}": tensor for kind, tensors in there.items() for name, tensor in tensors.items()}
