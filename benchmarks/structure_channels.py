"""Channel pruning on CIFAR-10: pretrained ResNets at half of their multiply-accumulates, one-shot and after two epochs.

One-shot means 500 training images without labels; every setting was chosen on held-back training images,
which the pretrained networks had learned from.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch
from cifar10 import Images, images, pretrained
from resnet20_task import task
from torch import nn

from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.techniques.prune_channels import PruneChannels
from haversack.training import Training, finetune

KEEP = 0.5


def run(data: Path, *, quick: bool, depth: int) -> dict[str, object]:
    """Accuracy on the test images, the fraction of multiply-accumulates that is left, and seconds.

    `quick` trains and tests on a part of the images.
    """
    test = images(data)[1].first(1_000 if quick else 10_000)
    model, name = _model(data, depth), f"resnet{depth}"
    begin = time.perf_counter()
    small = replace(PruneChannels(keep=KEEP, epochs=0).apply(model, task(data)), teacher=model.module)
    pruned = time.perf_counter()
    found = {
        f"{name}.one_shot": _accuracy(small.module, test),
        f"{name}.one_shot_seconds": round(pruned - begin, 1),
        f"{name}.one_shot_macs": round(_macs(small) / _macs(model), 4),
    }
    # What PruneChannels(keep=KEEP, epochs=2) goes on to do.
    training = Training(epochs=2, learning_rate=PruneChannels.learning_rate)
    trained = finetune(small, task(data, learn=2_000 if quick else 50_000), training)
    return found | {
        f"{name}.two_epochs": _accuracy(trained, test),
        f"{name}.two_epochs_seconds": round(time.perf_counter() - pruned, 1),
    }


def _model(data: Path, depth: int) -> Model:
    return Model(pretrained(data, depth), (torch.zeros(1, 3, 32, 32),))


def _macs(model: Model) -> int:
    return cost(trace(model.module, model.example)).macs


def _accuracy(module: nn.Module, test: Images) -> float:
    with torch.no_grad():
        return round(test.accuracy(module), 4)
