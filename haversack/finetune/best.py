"""The weights that a training ends with."""

from __future__ import annotations

import math

import torch

from haversack.graph.named_tensors import Tensors


class Best:
    """The weights of the best epoch so far, or of the last one where nobody scores them."""

    def __init__(self, start: Tensors) -> None:
        self._weights = {name: tensor.detach().clone() for name, tensor in start.items()}
        self._epochs, self._epoch = torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)
        self._score = torch.tensor(-math.inf, dtype=torch.float64)

    @torch.no_grad()
    def take(self, weights: Tensors, score: float | None) -> None:
        """Looks at the weights after an epoch."""
        self._epochs += 1
        if score is not None and score <= self._score:
            return
        self._epoch.copy_(self._epochs)
        self._score.fill_(-math.inf if score is None else score)
        for name, tensor in weights.items():
            self._weights[name].copy_(tensor)

    @property
    def weights(self) -> Tensors:
        """All tensors of the network, by name; those it started with before the first epoch has ended."""
        return self._weights

    @property
    def epoch(self) -> int:
        """The epoch that they are of; the first is 1."""
        return int(self._epoch)

    @property
    def score(self) -> float:
        """Their score; minus infinity where nobody gave one."""
        return float(self._score)

    @property
    def epochs_since(self) -> int:
        """How many epochs came after them."""
        return int(self._epochs - self._epoch)

    @property
    def state(self) -> Tensors:
        """All that they are, to be written down and read back."""
        return {**self._weights, "/epochs": self._epochs, "/epoch": self._epoch, "/score": self._score}
