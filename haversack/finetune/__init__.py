"""The one training that steps share: a network learns from the data and from its teacher."""

from haversack.finetune.checkpoint import checkpoints_in
from haversack.finetune.loop import finetune
from haversack.finetune.remembered import outputs_kept
from haversack.finetune.settings import Training, check_settings
from haversack.finetune.zeros import Masks

__all__ = ["Masks", "Training", "check_settings", "checkpoints_in", "finetune", "outputs_kept"]
