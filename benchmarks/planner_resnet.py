"""Pretrained ResNets on CIFAR-10, each to two limits, for this host in ONNX Runtime on one thread.

500 training images calibrate, 5,000 that are held back score candidates, the others train; the pretrained networks had
learned from all of them. The 10,000 test images validate the answer's file, once. `resnet56_whole` trains with all
50,000, so that what the network had learned from is not forgotten, and chooses by the same 5,000 of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cifar10 import images
from planner_job import Job, Outcome
from resnet20_task import HELD_BACK, network, task

from haversack.limits import Budget
from haversack.packing import Settings


@dataclass(frozen=True)
class Wanted:
    """A network's depth, its limits, and how long a plan is trained."""

    depth: int
    limits: Budget
    epochs: int
    """As many as fit into the minutes that are asked for on two cores: no score chose them."""
    learn: int = 50_000 - HELD_BACK


# The speed of integers hangs on the processor's instructions: the same row for hosts with VNNI, with AMX, with neither.
_RESNET20 = Wanted(20, Budget(flash_bytes=200_000, latency_ratio=0.45), 4)
_RESNET56 = Wanted(56, Budget(flash_bytes=480_000, latency_ratio=0.25), 8)
WANTED = {
    "resnet20": _RESNET20,
    "resnet20_amx": _RESNET20,
    "resnet20_without_vnni": _RESNET20,
    "resnet20_small": Wanted(20, Budget(flash_bytes=80_000, latency_ratio=0.30), 16),
    "resnet56": _RESNET56,
    "resnet56_whole": replace(_RESNET56, learn=50_000),
}
QUICK = 2_000


def job(data: Path, row: str, *, quick: bool) -> Job:
    """The row's network and limits; `quick` learns from 2,000 images for an epoch, and tests 1,000."""
    wanted, test = WANTED[row], images(data)[1].first(1_000 if quick else 10_000)
    whole = replace(task(data, learn=QUICK if quick else wanted.learn), validate=test.accuracy)
    settings = Settings(epochs=1 if quick else wanted.epochs)
    return Job(network(data, wanted.depth), whole, "host", wanted.limits, settings)


def run(data: Path, *, quick: bool, row: str) -> dict[str, object]:
    """The row's figures."""
    return Outcome.of(job(data, row, quick=quick)).figures(row)
