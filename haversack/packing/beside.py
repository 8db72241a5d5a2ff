"""Beside: how far a file is from the original on the very samples that score it, which have repaired nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from haversack.calibration.currency import nats
from haversack.task import Kind, Predict

_SAMPLES = 500


@dataclass
class RunBeside:
    """A predict function; the original runs beside it on the first samples that pass.

    On calibration inputs, which layers were refitted to, a network is nearer to the original than anywhere else.
    """

    predict: Predict
    original: Predict
    kind: Kind
    samples: int = 0
    lost: float = 0.0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The outputs of `predict`."""
        outputs = self.predict(*inputs)
        if self.samples < _SAMPLES and outputs.dim() > 0:
            self.lost += nats(outputs, self.original(*inputs), self.kind) * len(outputs)
            self.samples += len(outputs)
        return outputs

    @property
    def divergence(self) -> float | None:
        """The mean divergence, in nats; None where nothing was scored."""
        return self.lost / self.samples if self.samples else None
