"""The average of a network's weights over the steps of its training."""

from __future__ import annotations

import torch

from haversack.graph.named_tensors import Tensors


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
