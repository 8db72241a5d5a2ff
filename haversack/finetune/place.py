"""Where in its data a training is, so that it can be found again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from haversack.errors import TrainingError
from haversack.finetune.randomness import generators, set_generators
from haversack.graph.named_tensors import Tensors
from haversack.task import Batch, Task


class Place:
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
