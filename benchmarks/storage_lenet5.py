"""LeNet-5-Caffe on MNIST in one coded file, from scratch: structure, zeros, codebooks, coded; every byte counts.

Every setting was chosen by the errors on 5,000 training images that are held back. The reported errors are those of the
networks rebuilt from the files' bytes, on all 10,000 test images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from lenet5 import HELD_BACK, LeNet5, digits, task, trained

from haversack.model import Model
from haversack.runtimes import coded
from haversack.task import Task
from haversack.techniques.cluster_weights import ClusterWeights
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.prune_weights import PruneWeights

FLOAT_BYTES = 431_080 * 4
EXAMPLE = (torch.zeros(1, 1, 28, 28),)


@dataclass(frozen=True)
class Effort:
    """How many images train, and for how many epochs each part."""

    learn: int = 60_000 - HELD_BACK
    dense: int = 12
    channels: int = 12
    weights: int = 12
    values: int = 2


QUICK = Effort(2_000, 1, 2, 1, 1)


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Size and error of both files, and the minutes that all of it took."""
    threads, wall, processor = torch.get_num_threads(), time.perf_counter(), time.process_time()
    torch.set_num_threads(1)
    try:
        found = _measured(data, QUICK if quick else Effort())
    finally:
        torch.set_num_threads(threads)
    minutes = {
        "minutes": (time.process_time() - processor) / 60,
        "lenet5.wall_minutes": (time.perf_counter() - wall) / 60,
    }
    return {f"lenet5.{name}": value for name, value in found.items()} | minutes


def _measured(data: Path, effort: Effort) -> dict[str, object]:
    learning, (train, test) = task(data, learn=effort.learn), digits(data)
    dense = Model(trained(learning, effort.dense), EXAMPLE)
    found: dict[str, object] = {"float_error": 1 - test.accuracy(dense.module)}
    for suffix, model in _coarser(dense, learning, effort):
        content = coded.write(model)
        rebuilt = _rebuilt(content)
        found |= {
            f"bytes_at_{suffix}": len(content),
            f"ratio_at_{suffix}": FLOAT_BYTES / len(content),
            f"error_at_{suffix}": 1 - test.accuracy(rebuilt),
            f"held_back_error_at_{suffix}": 1 - train[slice(-HELD_BACK, None)].accuracy(rebuilt),
        }
    return found


def _rebuilt(content: bytes) -> LeNet5:
    """The network that the file's bytes alone describe: as wide as its tensors are, with their numbers."""
    biases = {name: len(values) for name, values in coded.read(content).items() if name.endswith(".bias")}
    fresh = LeNet5(biases["conv1.bias"], biases["conv2.bias"], biases["fc1.bias"]).eval()
    return cast("LeNet5", coded.restored(content, Model(fresh, EXAMPLE)).module)


def _coarser(dense: Model, learning: Task, effort: Effort) -> Iterator[tuple[str, Model]]:
    """The model for at most 0.75 % of errors, then the one for at most 1.00 %, which goes on from its zeros."""
    narrower = PruneChannels(0.054, of="parameters", min_share=0.1, rounds=2, epochs=effort.channels)
    values = ClusterWeights(3, effort.values, learning_rate=0.0005, entropy_weight=0.03)
    model = narrower.apply(dense, learning)
    for suffix, sparsity in (("75", 0.75), ("100", 0.88)):
        model = PruneWeights(sparsity, epochs=effort.weights, ramp=0.6, learning_rate=0.03).apply(model, learning)
        yield suffix, values.apply(model, learning)
