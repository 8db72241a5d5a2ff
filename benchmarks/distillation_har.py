"""Distillation on a phone's accelerometer and gyroscope: a plain 1-D network teaches a separable one of an eighth.

Five activities in windows of a second. Subjects 1 to 18 train, and 19 to 23, whom nothing saw before, report. What the
baseline is and how it trains was chosen on 15 to 18, and on 1 to 4, with the others of the 18 training; so is which
features help, and how much they weigh.
"""

from __future__ import annotations

import hashlib
import inspect
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import har_phone
import torch
from har_phone import CLASSES, LENGTH, Epoch, Windows
from safetensors.torch import load_file, save_file
from side_by_side import compared, side_by_side
from torch import nn

from haversack.device import find_device
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.packing import Settings, apply
from haversack.recipe import Recipe
from haversack.runtimes import host
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.training import Training, finetune
from haversack.training.machine import seeded
from haversack.training.settings import Features
from haversack.zoo.ds_cnn_1d import DsCnn1d

EXAMPLE = (torch.zeros(1, 6, LENGTH),)
People = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Splits: who teaches, and who is scored."""
REPORTED: People = [(range(1, 19), range(19, 24))]
CHOSEN_ON: People = [(range(1, 15), range(15, 19)), (range(5, 19), range(1, 5))]
SEEDS = 3
CHOOSING, REPORTING = 2, 6
"""Seeds of the features' students."""
Layers = Sequence[tuple[int, int, int]]
"""Output channels, kernel and stride of convolutions."""
LAYERS: Layers = ((64, 9, 2), (64, 5, 1), (128, 5, 2), (128, 5, 1))
BASELINE = Training(epochs=40, learning_rate=0, weight_decay=5e-4, distillation=0, label_smoothing=0.1)
TAUGHT = Training(epochs=20, learning_rate=0, weight_decay=5e-4, outputs="kd", distillation=0.7, temperature=3)
LABELS = replace(TAUGHT, distillation=0)
KINDS: tuple[Features, ...] = ("fitnet", "attention", "similarity")
WEIGHTS = 0.3, 1.0
WAYS = {
    f"{kind}_{weight:g}": replace(TAUGHT, features=kind, feature_weight=weight) for kind in KINDS for weight in WEIGHTS
}


@dataclass(frozen=True)
class Split:
    """Who teaches and who is scored, and the baseline that learned from those who teach."""

    known: Windows
    scored: Windows
    baseline: nn.Module
    epochs: int

    @classmethod
    def of(cls, data: Path, known: Sequence[int], scored: Sequence[int], *, quick: bool) -> Split:
        """A split with its baseline, which is trained unless that was done before."""
        windows, epochs = Windows.of(data, known), 1 if quick else TAUGHT.epochs
        windows = windows.first(960) if quick else windows
        baseline = trained_baseline(windows, replace(BASELINE, epochs=1) if quick else BASELINE)
        return cls(windows, Windows.of(data, scored, like=windows), baseline, epochs)

    @property
    def task(self) -> Task:
        """Those who are known teach and calibrate; nobody is scored while a network learns."""
        some = torch.randperm(len(self.known), generator=torch.Generator().manual_seed(0))[:500]
        epoch, calibrate = Epoch(self.known), self.known.inputs(some)
        return Task(train=lambda: epoch, calibrate=lambda: [calibrate], score=self.known.accuracy)

    def student(self, training: Training, seed: int) -> nn.Module:
        """A trained student; the seed draws its first weights and the order of the windows."""
        model = Model(fresh_student(seed), EXAMPLE, teacher=self.baseline)
        return finetune(model, self.task, replace(training, seed=seed, epochs=self.epochs))

    def scores(self, training: Training, seeds: int) -> list[float]:
        """The score of each seed's student."""
        return [round(self.scored.accuracy(self.student(training, seed)), 4) for seed in range(seeds)]


def har(data: Path, *, quick: bool) -> dict[str, object]:
    """Students taught by the baseline, the same from labels alone, and the taught ones as int8 files.

    The seconds are those of the students, from the first to the last file.
    """
    split = Split.of(data, *REPORTED[0], quick=quick)
    begin, seeds = time.monotonic(), 1 if quick else SEEDS
    students = [split.student(TAUGHT, seed) for seed in range(seeds)]
    whole, scores = split.scored.accuracy(split.baseline), [split.scored.accuracy(each) for each in students]
    labels = split.scores(LABELS, seeds)
    macs = [cost(trace(each, EXAMPLE)).macs for each in (split.baseline, students[0])]
    return {
        "har.baseline_score": round(whole, 4),
        "har.baseline_macs": macs[0],
        "har.student_score": round(statistics.mean(scores), 4),
        "har.student_scores": [round(each, 4) for each in scores],
        "har.labels_score": round(statistics.mean(labels), 4),
        "har.labels_scores": labels,
        "har.macs_ratio": round(macs[1] / macs[0], 4),
        "har.drop": round(whole - statistics.mean(scores), 4),
        **packed(split, students),
        "har.seeds": seeds,
        "har.epochs": split.epochs,
        "har.seconds": round(time.monotonic() - begin),
    }


def packed(split: Split, students: Sequence[nn.Module]) -> dict[str, object]:
    """The students as int8 files for a microcontroller, scored in tflite-micro."""
    device = replace(find_device("stm32f746"), runtime="tflite-micro")
    recipe, settings = Recipe((QuantizeStatic(activations="int8"),)), Settings(seconds=0.5)
    files = [apply(recipe, each, split.task, device, settings).artifact.files["model.tflite"] for each in students]
    scores = [split.scored.accuracy(host.load(each, runtime="tflite-micro")) for each in files]
    drop = statistics.mean(split.scored.accuracy(each) for each in students) - statistics.mean(scores)
    return {
        "har.int8_score": round(statistics.mean(scores), 4),
        "har.int8_scores": [round(each, 4) for each in scores],
        "har.int8_drop": round(drop, 4),
        "har.int8_bytes": len(files[0]),
    }


def features(data: Path, *, quick: bool) -> dict[str, object]:
    """What the maps within the baseline add to its outputs; which maps is chosen on people who are held back."""
    begin = time.monotonic()
    for split in (*CHOSEN_ON, *REPORTED):
        Split.of(data, *split, quick=quick)  # the baselines, for both processes
    tried = side_by_side({way: (scores, (data, CHOSEN_ON, WAYS[way], CHOOSING, quick)) for way in WAYS})
    best = max(WAYS, key=lambda way: statistics.mean(tried[way]))
    ways = {"outputs": TAUGHT, best: WAYS[best]}
    found = side_by_side({way: (scores, (data, REPORTED, ways[way], REPORTING, quick)) for way in ways})
    return {
        **{f"har_features.{way}_held_back_scores": each for way, each in tried.items()},
        **compared("har_features", found, best, over="outputs"),
        "har_features.best": best,
        "har_features.epochs": 1 if quick else TAUGHT.epochs,
        "har_features.seconds": round(time.monotonic() - begin),
    }


def scores(data: Path, people: People, training: Training, seeds: int, quick: bool) -> list[float]:  # noqa: FBT001
    """The scores of the students of all splits, seed by seed."""
    seen = [Split.of(data, *split, quick=quick) for split in people]
    return [score for split in seen for score in split.scores(training, 1 if quick else seeds)]


def run(data: Path, *, quick: bool, row: str) -> dict[str, object]:
    """The figures of `har` or of `har_features`."""
    return har(data, quick=quick) if row == "har" else features(data, quick=quick)


def trained_baseline(windows: Windows, training: Training, layers: Layers = LAYERS) -> nn.Module:
    """The plain network, trained on these windows; it is kept until its data, its layers or its settings change."""
    with seeded(training.seed):
        network = plain(layers)
    made_of = inspect.getsource(har_phone), str(network), str(training), str(windows.chosen.tolist())
    digest = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    kept = Path(tempfile.gettempdir()) / f"haversack-har-{digest}.safetensors"
    if kept.exists():
        network.load_state_dict(load_file(kept))
        return network.eval()
    task = Task(train=lambda: Epoch(windows), calibrate=None, score=windows.accuracy)
    network = finetune(Model(network, EXAMPLE), task, training)
    save_file(network.state_dict(), kept)
    return network


def plain(layers: Layers = LAYERS) -> nn.Module:
    """The baseline: convolutions over time, the average of what they find, and a linear layer."""
    inputs, modules = 6, []
    for outputs, kernel, stride in layers:
        convolution = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        modules += [convolution, nn.BatchNorm1d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*modules, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(inputs, CLASSES))


def fresh_student(seed: int) -> nn.Module:
    """The separable network before it learns."""
    with seeded(seed):
        return DsCnn1d(channels=6, outputs=CLASSES, width=0.75)
