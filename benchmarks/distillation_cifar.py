"""Distillation on CIFAR-10: ResNet-56 (93.39 %) teaches a student of a tenth of its work.

Each image has a few fixed shifts and reflections, so that the teacher's outputs are computed once for each of them
(see haversack/finetune/remembered.py).
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from cifar10 import Epoch, Images, ResNet, images, moved, pretrained
from resnet20_task import HELD_BACK
from torch import Tensor

from haversack.finetune import Training, finetune
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.task import Task

VIEWS = 6
TEACHER_DEPTH = 56
WIDTHS = (10, 24, 42)
"""Of ResNet-8's parameters and work, in 14 thinner layers."""
EXAMPLE = (torch.zeros(1, 3, 32, 32),)


TRAINING = Training(epochs=64, learning_rate=0.2, weight_decay=1e-4, outputs="dist", distillation=0.67, temperature=4.0)


def viewed(images: Images, some: Tensor) -> Tensor:
    """The images of these numbers, each in one of its versions, which are the same in every epoch."""
    view = torch.randint(VIEWS, (len(some),))
    down, right, mirrored = _views(len(images.labels))[:, view, some]
    return moved(images.inputs(some), down, right, mirrored > 0)


@cache
def _views(count: int) -> Tensor:
    """How far down and right each image is moved, and whether it is mirrored; shape (3, views, images)."""
    fixed = torch.Generator().manual_seed(0)
    shifts = torch.randint(0, 9, (2, VIEWS, count), generator=fixed)
    return torch.cat([shifts, torch.randint(0, 2, (1, VIEWS, count), generator=fixed)])


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The student's score on the test images, and what it costs."""
    training = replace(TRAINING, epochs=1) if quick else TRAINING
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        student = Model(ResNet(2, WIDTHS), EXAMPLE, teacher=pretrained(data, TEACHER_DEPTH))
    known, test = images(data)
    epoch = Epoch(known.first(1_280) if quick else known, viewed)
    task = Task(train=lambda: epoch, calibrate=None, score=known.last(HELD_BACK).accuracy)
    begin = time.perf_counter()
    trained = finetune(student, task, training)
    minutes, total = (time.perf_counter() - begin) / 60, cost(trace(trained, EXAMPLE))
    with torch.no_grad():
        score = test.first(1_000 if quick else 10_000).accuracy(trained)
    return {
        "resnet8.score": round(score, 4),
        "resnet8.parameters": total.parameters,
        "resnet8.macs": total.macs,
        "resnet8.epochs": training.epochs,
        "resnet8.minutes": round(minutes, 1),
    }
