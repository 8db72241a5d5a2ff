"""LeNet-5-Caffe on MNIST to a coded file of 4,000 bytes, which is what goes over a link.

500 training images calibrate, 5,000 that are held back score candidates, the others train. The error is that of the
network rebuilt from the answer's coded bytes, on the 10,000 test images. The first run trained for 12 epochs, as
storage_lenet5.py prunes: its row stays as `lenet5_short`. Its test error was seen before `lenet5` was given more.
"""

from __future__ import annotations

from pathlib import Path

from lenet5 import digits, network, task
from planner_job import Job, Outcome

from haversack.artifact import CODED_FILE
from haversack.limits import Budget
from haversack.packing import Settings
from haversack.runtimes import coded

LIMITS = Budget(update_bytes=4_000)
EPOCHS = {"lenet5_short": 12, "lenet5": 36}
"""The longer one as the minutes that are asked for allow."""


def run(data: Path, *, quick: bool, row: str) -> dict[str, object]:
    """The row's figures; `quick` learns from 2,000 images for an epoch."""
    settings = Settings(epochs=1 if quick else EPOCHS[row])
    learning = task(data, learn=2_000) if quick else task(data)
    outcome = Outcome.of(Job(network(data), learning, "host", LIMITS, settings))
    content, test = outcome.packed.artifact.files[CODED_FILE], digits(data)[1]
    score = test.accuracy(coded.restored(content, outcome.packed.model).module)
    figures = {"score": score, "error": 1 - score, "update_bytes": len(content)}
    return {**outcome.figures(row), **{f"{row}.{name}": value for name, value in figures.items()}}
