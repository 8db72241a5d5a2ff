"""The optimizer, and its learning rate over a training."""

from __future__ import annotations

import math

import torch
from torch import nn

from haversack.errors import TrainingError
from haversack.finetune.settings import Training


def optimizer(network: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The optimizer of `network`'s parameters. Raises TrainingError where there are none to train."""
    groups = _weight_groups(network, training.weight_decay)
    if training.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=training.learning_rate)
    return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, nesterov=True)


def set_rate(optimizer: torch.optim.Optimizer, training: Training, share_done: float) -> None:
    """The learning rate after `share_done` of the training: it rises over the first tenth and falls as a cosine."""
    for group in optimizer.param_groups:
        group["lr"] = training.learning_rate * _schedule(share_done)


def _schedule(share_done: float) -> float:
    warm_up = 0.1
    if share_done < warm_up:
        return (share_done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (share_done - warm_up) / (1 - warm_up)))


def _weight_groups(network: nn.Module, decay: float) -> list[dict[str, object]]:
    """Kernels decay; biases and normalisation weights do not."""
    kernels = [p for p in network.parameters() if p.requires_grad and p.dim() > 1]
    rest = [p for p in network.parameters() if p.requires_grad and p.dim() <= 1]
    if not kernels and not rest:
        raise TrainingError(
            "no parameter of the network requires a gradient.", mend="call network.requires_grad_(True) in network()."
        )
    return [{"params": kernels, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
