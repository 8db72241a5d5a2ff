"""Checkpoints: a training that was killed goes on from where it was last written down, to the same weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import torch

from haversack.finetune.tensor_file import read_tensors, write_tensors
from haversack.graph.named_tensors import Tensors, digest

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
