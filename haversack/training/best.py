"""The weights that a training ends with: the best of its epochs, or the average over its steps."""

from __future__ import annotations

import math

import torch

from haversack.graph.run import Tensors


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


class Average:
    """An exponential moving average of all tensors of a network (Polyak and Juditsky 1992; Tarvainen 2017).

    `decay` is what is kept of it at a step: 0.99 looks back over some hundred steps. Over the first steps less is
    kept, so that where the training began is soon forgotten. Whole numbers, such as counts of batches, are the latest.
    """

    def __init__(self, decay: float, start: Tensors) -> None:
        self._decay, self._steps = decay, torch.zeros((), dtype=torch.int64)
        self._values = {name: tensor.detach().clone() for name, tensor in start.items()}

    @torch.no_grad()
    def step(self, tensors: Tensors) -> None:
        """Takes in the tensors after a step."""
        self._steps += 1
        kept = min(self._decay, self._steps.item() / (self._steps.item() + 9))
        for name, tensor in tensors.items():
            if tensor.is_floating_point():
                self._values[name].lerp_(tensor, 1 - kept)
            else:
                self._values[name].copy_(tensor)

    @property
    def values(self) -> Tensors:
        """The average of each tensor, by its name."""
        return self._values

    @property
    def state(self) -> Tensors:
        """All that an average is."""
        return {**self._values, "": self._steps}
