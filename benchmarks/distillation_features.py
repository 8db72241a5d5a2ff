"""What the maps within a teacher add to its outputs: ResNet-20 teaches itself with blocks in the place of convolutions.

The blocks of half the multiply-accumulates imitate their convolutions already (see distillation_blocks.py); then the
whole network learns for one epoch. Both ways have the same first weights, images in the same order and learning rate;
three seeds. Shifted images are new to the teacher each time, so that its maps cost no more than its outputs.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from cifar10 import images
from distillation_blocks import HALF, QUICK
from distillation_gain import SEEDS
from resnet20_task import network, task
from side_by_side import compared, side_by_side

from haversack.model import Model
from haversack.training import Training, finetune

OUTPUTS = Training(epochs=1, learning_rate=HALF.learning_rate)
WAYS = {"outputs": OUTPUTS, "fitnet": replace(OUTPUTS, features="fitnet")}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Scores on the test images of the networks that see the teacher's maps and of those that see its outputs alone."""
    begin = time.perf_counter()
    original = Model(network(data), (torch.zeros(1, 3, 32, 32),))
    small = replace(HALF, epochs=0).apply(original, task(data, **QUICK if quick else {}))
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "small.pt"
        torch.save(small, kept)
        found = side_by_side({way: (scores, (data, kept, training, quick)) for way, training in WAYS.items()})
    return {
        "features.before_score": _score(small, data, quick=quick),
        **compared("features", found, "fitnet", over="outputs"),
        "features.epochs": OUTPUTS.epochs,
        "features.minutes": round((time.perf_counter() - begin) / 60, 1),
    }


def scores(data: Path, kept: Path, training: Training, quick: bool) -> list[float]:  # noqa: FBT001 - see side_by_side
    """The test scores of the network in the file `kept` after its training, seed by seed."""
    small, learned = torch.load(kept, weights_only=False), task(data, **QUICK if quick else {})
    trained = (finetune(small, learned, replace(training, seed=seed)) for seed in (SEEDS[:1] if quick else SEEDS))
    return [_score(small.with_module(each), data, quick=quick) for each in trained]


def _score(model: Model, data: Path, *, quick: bool) -> float:
    test = images(data)[1]
    with torch.no_grad():
        return (test.first(1_000) if quick else test).accuracy(model.module)
