"""A network for a phone's motion sensors, to 12 kB and an arena of 16 kB on a microcontroller.

Subjects 1 to 14 train and calibrate, 15 to 18 score candidates, and 19 to 23, whom nothing saw before, report. The
float network has the layers of the baseline of distillation_har.py at half their widths.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from distillation_har import BASELINE, LAYERS, trained_baseline
from har_phone import LENGTH, STEP, Epoch, Windows
from planner_job import Job, Outcome

from haversack.device import find_device
from haversack.limits import Budget
from haversack.packing import Settings
from haversack.task import Task

LEARNING, CHOOSING, REPORTING = range(1, 15), range(15, 19), range(19, 24)
LIMITS = Budget(flash_bytes=12_000, ram_bytes=16_000)
HALF = tuple((outputs // 2, kernel, stride) for outputs, kernel, stride in LAYERS)
EPOCHS = 20
"""As distillation_har.py teaches its students, which other subjects chose."""


def job(data: Path, *, quick: bool) -> Job:
    """The trained network and its limits; `quick` trains for an epoch on 960 windows."""
    learning = Windows.of(data, LEARNING)
    learning = learning.first(960) if quick else learning
    choosing, reporting = (Windows.of(data, each, like=learning) for each in (CHOOSING, REPORTING))
    network = trained_baseline(learning, replace(BASELINE, epochs=1) if quick else BASELINE, HALF)
    some = torch.randperm(len(learning), generator=torch.Generator().manual_seed(0))[:500]
    task = Task(
        train=lambda: Epoch(learning),
        calibrate=lambda: learning.inputs(some).split(100),
        score=choosing.accuracy,
        validate=reporting.accuracy,
        samples=len(choosing) * STEP // LENGTH,  # neighbouring windows share half of what they hold
    )
    device = replace(find_device("stm32f746"), runtime="tflite-micro")
    return Job(network, task, device, LIMITS, Settings(seconds=0.5, epochs=1 if quick else EPOCHS))


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures, of the answer's `.tflite` in tflite-micro; how far below the float network it scores."""
    outcome = Outcome.of(job(data, quick=quick))
    measured, before = outcome.packed.artifact.measurement, outcome.packed.baseline
    if measured.validated is None or before.validated is None:
        raise AssertionError("the task validates")
    return {
        **outcome.figures("har"),
        "har.ram_bytes": measured.ram_bytes.worst,
        "har.below_float": before.validated.value - measured.validated.value,
    }
