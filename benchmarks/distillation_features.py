"""What the maps within a teacher add to its outputs in a short training: ResNet-56 teaches a small ShuffleNetV2.

Both ways have the same first weights, images in the same order, epochs and learning rate; three seeds.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

from distillation_gain import TAUGHT, side_by_side

OUTPUTS = replace(TAUGHT, epochs=4)
WAYS = {"outputs": OUTPUTS, "fitnet": replace(OUTPUTS, features="fitnet", feature_weight=3.0)}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Scores on the test images of the students that see the teacher's maps and of those that see its outputs alone."""
    begin = time.perf_counter()
    scores = side_by_side(data, "shufflenet_v2", WAYS, quick=quick)
    gains = [there - here for there, here in zip(scores["fitnet"], scores["outputs"], strict=True)]
    return {
        **{f"features.{way}_scores": each for way, each in scores.items()},
        **{f"features.{way}_score": round(statistics.mean(each), 4) for way, each in scores.items()},
        "features.gain": round(statistics.mean(gains), 4),
        "features.gains": [round(each, 4) for each in gains],
        "features.seeds": len(gains),
        "features.epochs": 1 if quick else OUTPUTS.epochs,
        "features.minutes": round((time.perf_counter() - begin) / 60, 1),
    }
