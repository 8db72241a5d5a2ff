"""Lessons: what a student is told about each batch, by the labels and by its teacher."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from haversack.errors import TrainingError
from haversack.finetune.outputs import distance
from haversack.finetune.settings import Training
from haversack.task import Batch, Task, has_target, unpack


@dataclass(frozen=True)
class Lessons:
    """The loss of a batch. Without a teacher the labels teach alone, without labels the teacher does."""

    student: nn.Module
    teacher: nn.Module | None
    task: Task
    training: Training

    def loss(self, batch: Batch) -> Tensor:
        """A scalar to be made small. Raises TrainingError where neither a target nor a teacher is there."""
        inputs, target = unpack(batch)
        labelled = has_target(batch) or self.task.kind == "reconstruction"
        share = self.training.distillation if labelled else 1.0
        if self.teacher is None and not labelled:
            raise TrainingError("there is neither a target nor a teacher.", mend="let train() yield (inputs, target).")
        with mixed_precision(inputs[0].device.type):
            outputs = self.student(*inputs).float()
        if self.teacher is None or share == 0:
            return self.task.error(outputs, target, self.training.label_smoothing)
        with torch.no_grad(), mixed_precision(inputs[0].device.type):
            taught = self.teacher(*inputs).float()
        known = target if has_target(batch) else None
        far = distance(outputs, taught, known, self.task.kind, self.training.outputs, self.training.temperature)
        if share >= 1:
            return far
        return share * far + (1 - share) * self.task.error(outputs, target, self.training.label_smoothing)


def mixed_precision(device: str) -> torch.autocast:
    """bfloat16 where the processor multiplies it (ResNet-20 trains twice as fast), float32 elsewhere."""
    able = torch.cpu._is_avx512_bf16_supported() if device == "cpu" else _is_able(device)  # noqa: SLF001
    return torch.autocast(device, torch.bfloat16, enabled=able)


def _is_able(device: str) -> bool:
    """Whether a graphics card multiplies bfloat16 itself."""
    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
