"""Schedule: sparsity that rises while a network trains, so that what is left can make up for what goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haversack.techniques.prune_weights.masks import kept

Tensors = Mapping[str, Tensor]

# How often in the whole training masks are chosen anew.
_CHOICES = 200
# The share of the training in which movement is watched before anything goes.
_WATCHING = 0.1


@dataclass(frozen=True)
class Pool:
    """Weights, by name, that are judged together until a share of `sparsity` of them is zero."""

    names: tuple[str, ...]
    sparsity: float

    def kept(self, scores: Tensors, sparsity: float | None = None) -> dict[str, Tensor]:
        """True for the weights that stay, those of the lowest scores being gone."""
        wanted = self.sparsity if sparsity is None else sparsity
        return kept({name: scores[name] for name in self.names}, wanted)

    def zeros(self, weights: Tensors) -> float:
        """The share of zeros now."""
        counts = [(int((weights[name] == 0).sum()), weights[name].numel()) for name in self.names]
        return sum(zeros for zeros, _ in counts) / sum(total for _, total in counts)


def cubic(share_done: float, start: float, end: float) -> float:
    """The sparsity on the way from `start` to `end`: fast at first, while much can go (Zhu and Gupta 2017)."""
    left = 1 - min(max(share_done, 0.0), 1.0)
    return end + (start - end) * left**3


class Rising:
    """Masks of the smallest weights for `finetune`: full after `ramp` of the training, and what is gone stays gone.

    `weights` are the network's before training; the zeros of those named in `sparse` are there to stay.
    """

    def __init__(self, pools: Sequence[Pool], ramp: float, weights: Tensors, sparse: frozenset[str]) -> None:
        self._plan = _Plan(pools, weights, ramp, 0.0)
        self._masks: dict[str, Tensor] = {name: weights[name] != 0 for name in sparse & weights.keys()}

    def __call__(self, weights: Tensors, share_done: float) -> Tensors:
        """The masks for the step that ends at `share_done`."""
        if self._plan.is_due(share_done):
            magnitudes = {name: weights[name].abs() for name in self._plan.names}
            for name, mask in self._plan.kept(magnitudes, share_done).items():
                self._masks[name] = mask & self._masks[name] if name in self._masks else mask
        return self._masks


class Moving:
    """Masks for `finetune` of the weights that training moves towards zero (movement pruning, Sanh et al. 2020).

    A weight's score is the sum of -weight x gradient over the steps so far; the lowest go. What is masked keeps its
    last value and goes on being scored, so that it can come back; zeros of weights in `sparse` cannot.
    """

    def __init__(self, pools: Sequence[Pool], ramp: float, weights: Tensors, sparse: frozenset[str]) -> None:
        self._plan = _Plan(pools, weights, ramp, _WATCHING)
        self._alive = {name: weights[name] != 0 for name in sparse & weights.keys()}
        self._last = {name: weights[name].clone() for name in self._plan.names}
        self._scores = {name: torch.zeros_like(weights[name]) for name in self._plan.names}
        self._masks: dict[str, Tensor] = dict(self._alive)

    def __call__(self, weights: Tensors, share_done: float) -> Tensors:
        """The masks for the step that ends at `share_done`."""
        for name, last in self._last.items():
            weight, gradient = weights[name], weights[name].grad
            last.copy_(torch.where(self._masks[name], weight, last) if name in self._masks else weight)
            if gradient is not None:
                self._scores[name].addcmul_(gradient, last, value=-1.0)
        if self._plan.is_due(share_done):
            for name, mask in self._plan.kept(self._ranked(), share_done).items():
                alive = mask & self._alive[name] if name in self._alive else mask
                weights[name].copy_(torch.where(alive, self._last[name], weights[name]))
                self._masks[name] = alive
        return self._masks

    def _ranked(self) -> Tensors:
        """The scores, those of what is gone for good below all others."""
        lowest = min(float(score.min()) for score in self._scores.values()) - 1
        gone = {name: ~alive for name, alive in self._alive.items() if name in self._scores}
        return self._scores | {name: self._scores[name].masked_fill(each, lowest) for name, each in gone.items()}


class _Plan:
    """When masks are chosen anew, and how sparse they are then."""

    def __init__(self, pools: Sequence[Pool], weights: Tensors, ramp: float, wait: float) -> None:
        self._pools, self._wait, self._end = pools, min(wait, ramp), ramp
        self._starts = [pool.zeros(weights) for pool in pools]
        self._next = 0.0
        self.names = [name for pool in pools for name in pool.names]

    def is_due(self, share_done: float) -> bool:
        """Whether it is time to choose; at the end of the training it is."""
        due = share_done >= min(self._next, 1.0)
        if due:
            self._next = share_done + 1 / _CHOICES
        return due

    def kept(self, scores: Tensors, share_done: float) -> dict[str, Tensor]:
        """The masks of all pools."""
        length = self._end - self._wait
        done = (share_done - self._wait) / length if length > 0 else 1.0
        masks: dict[str, Tensor] = {}
        for pool, start in zip(self._pools, self._starts, strict=True):
            masks |= pool.kept(scores, cubic(done, start, pool.sparsity))
        return masks
