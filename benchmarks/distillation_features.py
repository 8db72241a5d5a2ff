"""What the maps within a teacher add to its outputs in a short training: ResNet-56 teaches a small ShuffleNetV2.

Both ways have the same first weights, images in the same order, epochs and learning rate; three seeds.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

from cifar10 import images, pretrained
from distillation_cifar import EXAMPLE, TEACHER_DEPTH
from distillation_gain import SEEDS, TAUGHT, score, student

from haversack.finetune import outputs_kept
from haversack.model import Model

OUTPUTS = replace(TAUGHT, epochs=4)
WAYS = {"outputs": OUTPUTS, "fitnet": replace(OUTPUTS, features="fitnet", feature_weight=3.0)}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Scores on the test images of the students that see the teacher's maps and of those that see its outputs alone."""
    begin, (known, test) = time.perf_counter(), images(data)
    learned, judged = (known.first(1_280), test.first(1_000)) if quick else (known, test)
    epochs, seeds = (1, SEEDS[:1]) if quick else (OUTPUTS.epochs, SEEDS)
    teacher, scores = pretrained(data, TEACHER_DEPTH), {way: list[float]() for way in WAYS}
    with outputs_kept():
        for seed in seeds:
            model = Model(student("shufflenet_v2", seed), EXAMPLE, teacher=teacher)
            for way, training in WAYS.items():
                scores[way].append(score(model, replace(training, epochs=epochs, seed=seed), learned, judged))
    gains = [there - here for there, here in zip(scores["fitnet"], scores["outputs"], strict=True)]
    return {
        **{f"features.{way}_scores": each for way, each in scores.items()},
        **{f"features.{way}_score": round(statistics.mean(each), 4) for way, each in scores.items()},
        "features.gain": round(statistics.mean(gains), 4),
        "features.gains": [round(each, 4) for each in gains],
        "features.seeds": len(seeds),
        "features.epochs": epochs,
        "features.minutes": round((time.perf_counter() - begin) / 60, 1),
    }
