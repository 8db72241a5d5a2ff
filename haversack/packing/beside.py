"""Beside: how far a file is from the original on the very samples that score it, which have repaired nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from haversack.batches import each_of
from haversack.calibration.currency import nats
from haversack.positions import Mask, that_count
from haversack.task import Kinds, Predict

_SAMPLES = 500


@dataclass
class RunBeside:
    """A predict function; the original runs beside it on the first samples that pass.

    On calibration inputs, which layers were refitted to, a network is nearer to the original than anywhere else.
    """

    predict: Predict
    original: Predict
    kind: Kinds
    mask: Mask | None = None
    samples: int = 0
    lost: float = 0.0

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
        """The outputs of `predict`."""
        outputs = self.predict(*inputs)
        first = each_of(outputs)[0]
        if self.samples < _SAMPLES and first.dim() > 0:
            ours, theirs = (that_count(self.mask, each, inputs) for each in (outputs, self.original(*inputs)))
            self.lost += nats(ours, theirs, self.kind) * len(first)
            self.samples += len(first)
        return outputs

    @property
    def divergence(self) -> float | None:
        """The mean divergence, in nats; None where nothing was scored."""
        return self.lost / self.samples if self.samples else None
