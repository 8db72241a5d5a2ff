"""A training that can be broken off at any batch: its checkpoint, written by one process and read by all."""

from __future__ import annotations

from torch import Tensor

from haversack.finetune.checkpoint import checkpoint
from haversack.finetune.learner import Learner
from haversack.finetune.place import Place
from haversack.graph.named_tensors import named_tensors


class Resumable:
    """A learner and its place among its data, which are written down together where checkpoints are wanted.

    With masks they are not: what masks remember of earlier steps is their own.
    """

    def __init__(self, learner: Learner, place: Place, batches: int) -> None:
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
