"""Blocks: ResNet-20 on CIFAR-10 with depthwise separable and grouped blocks at half of the multiply-accumulates.

`blocks.replaced` of its 19 convolutions gave way. On this host's runtime a block of half the multiplications may well
be slower: `blocks.kept` of them stay where blocks have to be measured faster, which is tried without any training.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from cifar10 import Images, images
from resnet20_task import network, task
from torch import nn

from haversack.device import find_device
from haversack.errors import HaversackError
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.packing.candidates import Files
from haversack.progress import shown_by
from haversack.task import Task
from haversack.techniques.replace_blocks import ReplaceBlocks

HALF = ReplaceBlocks(0.5, "macs", epochs=4, learning_rate=0.03)
FASTER = ReplaceBlocks(0.95, "latency", passes=0, epochs=0)
QUICK = {"learn": 1_280}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The ratio of multiply-accumulates, the score on the test images, and where blocks did not pay."""
    started = time.monotonic()
    original, test = Model(network(data), (torch.zeros(1, 3, 32, 32),)), images(data)[1]
    learned = task(data, **QUICK if quick else {})
    small = HALF.apply(original, learned)
    test = test.first(1_000) if quick else test
    return {
        "blocks.macs_ratio": _macs(small) / _macs(original),
        "blocks.score_before": _score(original, test),
        "blocks.score": _score(small, test),
        "blocks.epochs": HALF.epochs,
        "blocks.replaced": _convolutions(original) - _convolutions(small),
        "blocks.minutes": (time.monotonic() - started) / 60,
        "blocks.kept": _kept(replace(original, target=Files(find_device("host"), seconds=0.1)), learned),
    }


@dataclass(frozen=True)
class Left:
    """Hears which convolutions are left alone."""

    lines: list[str] = field(default_factory=list)

    def track(self, items: Iterable[object], label: str, total: int | None) -> Iterator[object]:
        """The items as they are."""
        del label, total
        return iter(items)

    def say(self, line: str) -> None:
        """Keeps the line."""
        if "is left alone" in line:
            self.lines.append(line)


def _kept(timed: Model, learned: Task) -> int:
    """How many convolutions no block is measured to make faster."""
    left = Left()
    with shown_by(left), contextlib.suppress(HaversackError):
        FASTER.apply(timed, learned)
    return len(left.lines)


def _score(model: Model, test: Images) -> float:
    with torch.no_grad():
        return test.accuracy(model.module)


def _macs(model: Model) -> int:
    return cost(trace(model.module, model.example)).macs


def _convolutions(model: Model) -> int:
    """Convolutions without groups whose kernel reads more than one pixel."""
    found = (each for each in model.module.modules() if isinstance(each, nn.Conv2d))
    return sum(each.groups == 1 and each.kernel_size != (1, 1) for each in found)
