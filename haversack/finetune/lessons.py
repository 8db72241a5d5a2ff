"""Lessons: what a student is told about each batch, by the labels and by its teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from haversack.errors import TrainingError
from haversack.finetune.features import FeatureLesson
from haversack.finetune.outputs import distance
from haversack.finetune.pairs import results_of
from haversack.finetune.precision import mixed_precision
from haversack.finetune.settings import Training
from haversack.task import Batch, Task, has_target, unpack


@dataclass(frozen=True)
class Lessons:
    """The loss of a batch. Without a teacher the labels teach alone, without labels the teacher does."""

    student: nn.Module
    teacher: nn.Module | None
    task: Task
    training: Training
    features: FeatureLesson | None = None

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

    def _of_outputs(self, outputs: Tensor, taught: Tensor, batch: Batch, share: float) -> Tensor:
        """The loss of outputs of which the teacher has a `share`, and the target the rest."""
        _, target = unpack(batch)
        loss = torch.zeros((), device=outputs.device)
        if share > 0:
            known = target if has_target(batch) else None
            ways = (self.task.kind, self.training.outputs, self.training.temperature)
            loss = loss + share * distance(outputs, taught, known, *ways)
        if share < 1:
            loss = loss + (1 - share) * self.task.error(outputs, target, self.training.label_smoothing)
        return loss

    def _run(
        self, network: nn.Module, inputs: tuple[Tensor, ...], paths: Sequence[str]
    ) -> tuple[Tensor, Mapping[str, Any]]:
        """What the network gives, and what its layers at `paths` do."""
        precision = mixed_precision(inputs[0].device.type) if self.training.mixed_precision else nullcontext()
        with precision, results_of(network, paths) as results:
            outputs = network(*inputs).float()
        return outputs, results
