"""Zeros that pruning put into weights stay zero while they train."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from haversack.graph.named_tensors import Tensors


class Masks(Protocol):
    """Which weights stay zero, decided anew while a network trains."""

    def __call__(self, weights: Tensors, share_done: float) -> Tensors:
        """True where a weight stays, by name, for the step that ends when `share_done` of the training is.

        Asked after each backward pass, so that the weights' gradients are there; the last `share_done` is 1. The
        weights are the network's own parameters: what comes back to life may be written into them.
        """
        ...


class Zeros:
    """Keeps zeros zero: their gradients neither count in the clipping nor gather momentum."""

    def __init__(self, network: nn.Module, sparse: frozenset[str], masks: Masks | None) -> None:
        self._weights = dict(network.named_parameters(remove_duplicate=False))
        self._masks = masks
        self._kept: Tensors = {name: self._weights[name] != 0 for name in sparse & self._weights.keys()}

    @torch.no_grad()
    def before_step(self, share_done: float) -> None:
        """Clears the gradients of all that stays zero."""
        if self._masks is not None:
            self._kept = self._masks(self._weights, share_done)
        for name, kept in self._kept.items():
            gradient = self._weights[name].grad
            if gradient is not None:
                gradient.mul_(kept)

    @torch.no_grad()
    def after_step(self) -> None:
        """Clears what the optimizer's memory of earlier steps moved away from zero."""
        for name, kept in self._kept.items():
            self._weights[name].mul_(kept)
