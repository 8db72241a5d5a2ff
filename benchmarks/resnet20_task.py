"""ResNet-20 on CIFAR-10 as a task for haversack; no test image is in it.

HAVERSACK_DATA=../shared/data haversack weigh benchmarks/resnet20_task.py --device raspberry-pi-4
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from cifar10 import Epoch, Images, ResNet, images, pretrained, shifted
from torch import Tensor

from haversack.task import Task

DATA = Path(os.environ.get("HAVERSACK_DATA", "../shared/data"))
HELD_BACK = 5_000


def network(data: Path = DATA, depth: int = 20) -> ResNet:
    """The pretrained network: 91.73 % of the test images; of depth 56, 93.39 %."""
    return pretrained(data, depth)


def task(data: Path = DATA, *, learn: int = 50_000 - HELD_BACK) -> Task:
    """500 training images calibrate, 5,000 are held back to score candidates, `learn` of the others train.

    The pretrained network had learned from those that are held back, too.
    """

    @cache
    def train() -> Images:
        return images(data)[0]

    def learned() -> Images:
        return train().first(learn)

    def calibrate() -> Iterator[Tensor]:
        some = torch.randperm(learn, generator=torch.Generator().manual_seed(0))[:500]
        return (train().inputs(batch) for batch in some.split(100))

    return Task(
        train=lambda: Epoch(learned(), shifted),
        calibrate=calibrate,
        score=lambda predict: train().last(HELD_BACK).accuracy(predict),
    )
