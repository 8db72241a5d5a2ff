"""The one training that steps share: a network learns from the data and from its teacher."""

from __future__ import annotations

from haversack.training.learner import Masks
from haversack.training.loop import finetune, trained
from haversack.training.resume import checkpoints_in
from haversack.training.settings import Training
from haversack.training.teacher import outputs_kept

__all__ = ["Masks", "Training", "checkpoints_in", "finetune", "outputs_kept", "trained"]
