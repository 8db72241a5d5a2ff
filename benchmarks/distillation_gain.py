"""What a teacher adds: ResNet-56 (93.39 %) teaches small students of the zoo, and labels alone teach the same ones.

Both ways have the same first weights and number of steps, and a learning rate of their own. A row is one training, so
that a contest of several seeds can be split over runs and machines; a training that was killed goes on where it was. A
gain is the mean over the seeds that both ways have. What the teacher says of an image, as it is or mirrored, is
computed once for all trainings.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cifar10 import Epoch, Images, images, pretrained, shifted, shuffled
from distillation_cifar import EXAMPLE, TEACHER_DEPTH
from resnet20_task import HELD_BACK
from torch import Tensor, nn

from haversack import zoo
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.task import Task
from haversack.training import Training, checkpoints_in, finetune, outputs_kept

SEEDS = (0, 1, 2)
CHOOSING_SEED = 100
"""A rate is chosen by images that are held back, with a seed that does not report."""
STUDENTS = {
    "mobilenet_v2": {"width": 0.25, "depth": 0.5, "downsampling": 8, "head": 96, "dropout": 0.0},
    "shufflenet_v2": {"width": 0.27, "depth": 0.5, "downsampling": 8},
}
UNKNOWN = -100
"""The label of an image without one, as in torch's cross-entropy."""


def mirrored(images: Images, some: Tensor) -> Tensor:
    """The images of these numbers, half of them mirrored."""
    inputs = images.inputs(some)
    return torch.where(torch.rand(len(some), 1, 1, 1) < 0.5, inputs.flip(3), inputs)


def only_labelled(images: Images) -> Tensor:
    """The numbers of those images that have a label, each as often as makes an epoch of all images."""
    known = (images.labels != UNKNOWN).nonzero().flatten()
    times = len(images.labels) // len(known)
    return torch.cat([known[torch.randperm(len(known))] for _ in range(times)])


def labels_spread(images: Images) -> Tensor:
    """The numbers of all images in random order, those with a label evenly among the others."""
    has_label = images.labels != UNKNOWN
    known, others = (each.nonzero().flatten() for each in (has_label, ~has_label))
    columns = others[torch.randperm(len(others))].view(len(known), -1)
    return torch.cat([known[torch.randperm(len(known)), None], columns], 1).flatten()


@dataclass(frozen=True)
class Way:
    """How a student learns: its training, the rates its own was chosen from, how images are shown, in which order."""

    training: Training
    rates: tuple[float, ...]
    shown: Callable[[Images, Tensor], Tensor] = mirrored
    order: Callable[[Images], Tensor] = shuffled


@dataclass(frozen=True)
class Contest:
    """A student that learns in two ways, at rates chosen in so many epochs; one image in `one_in` has a label."""

    family: str
    ways: Mapping[str, Way]
    one_in: int = 1
    choosing_epochs: int = 3


_TAUGHT = Training(
    epochs=24, weight_decay=5e-4, clip=0, outputs="kd", temperature=4.0, distillation=0.9, mixed_precision=False
)
_ALONE = replace(_TAUGHT, distillation=0)
_RATES = (0.05, 0.1, 0.2, 0.4)
CONTESTS = {
    "mobilenetv2.tuned": Contest(
        "mobilenet_v2",
        {
            "taught": Way(replace(_TAUGHT, learning_rate=0.05), _RATES),
            "labels": Way(replace(_ALONE, learning_rate=0.4), _RATES),
        },
    ),
    "mobilenetv2.few_labels": Contest(
        "mobilenet_v2",
        {
            "taught": Way(replace(_TAUGHT, learning_rate=0.1, epochs=12), _RATES, order=labels_spread),
            "labels": Way(replace(_ALONE, learning_rate=0.2, epochs=12), _RATES, shifted, only_labelled),
        },
        one_in=10,
    ),
    "shufflenetv2.tuned_3_epochs": Contest(
        "shufflenet_v2",
        {
            "taught": Way(replace(_TAUGHT, learning_rate=0.05), _RATES),
            "labels": Way(replace(_ALONE, learning_rate=0.4), _RATES),
        },
    ),
    "shufflenetv2.tuned": Contest(
        "shufflenet_v2",
        {
            "taught": Way(replace(_TAUGHT, learning_rate=0.2), (0.1, 0.2, 0.4)),
            "labels": Way(replace(_ALONE, learning_rate=0.2), (0.2, 0.4)),
        },
        choosing_epochs=24,
    ),
}


def trainings() -> Iterator[dict[str, Any]]:
    """All trainings as `run` and `row` take them: contest, way and seed, and before them those that choose a rate."""
    for contest, each in CONTESTS.items():
        yield from (
            {"contest": contest, "way": way, "rate": rate} for way in each.ways for rate in each.ways[way].rates
        )
        yield from ({"contest": contest, "way": way, "seed": seed} for seed in SEEDS for way in each.ways)


def row(contest: str, way: str, seed: int = CHOOSING_SEED, rate: float = 0.0) -> str:
    """The name of a training's row, and of its score; with a rate, of one that chooses."""
    return f"{contest}.held_back.{way}.{rate:g}" if rate else f"{contest}.seed{seed}.{way}"


def run(  # noqa: PLR0913 - what makes a training
    data: Path, *, quick: bool, contest: str, way: str, seed: int = CHOOSING_SEED, rate: float = 0.0
) -> dict[str, object]:
    """The student's score on the test images after it has learned in that way; with a rate, on those held back."""
    begin, name, chosen = time.perf_counter(), row(contest, way, seed, rate), CONTESTS[contest]
    known, test = images(data)
    learned, judged = (known.first(len(known.labels) - HELD_BACK), known.last(HELD_BACK)) if rate else (known, test)
    if quick:
        learned, judged = learned.first(1_280), judged.first(1_000)
    training = replace(chosen.ways[way].training, seed=seed)
    if rate:
        training = replace(training, learning_rate=rate, epochs=chosen.choosing_epochs)
    if quick:
        training = replace(training, epochs=1)
    network = learnt(data, chosen, replace(chosen.ways[way], training=training), learned)
    with torch.no_grad():
        score = judged.accuracy(network)
    minutes = round((time.perf_counter() - begin) / 60, 1)
    return {name: score, f"{name}.epochs": training.epochs, f"{name}.minutes": minutes}


def learnt(data: Path, contest: Contest, way: Way, learned: Images) -> nn.Module:
    """The contest's student after it has learned from these images; the training says with which seed."""
    has_label = torch.arange(len(learned.labels)) % contest.one_in == 0
    epoch = Epoch(Images(learned.pixels, learned.labels.where(has_label, UNKNOWN)), way.shown, way.order)
    model = Model(student(contest.family, way.training.seed), EXAMPLE, teacher=pretrained(data, TEACHER_DEPTH))
    folder = Path(tempfile.gettempdir()) / "haversack-distillation"
    # Trainings with and without a teacher differ by their settings; how images are shown is for us to keep apart.
    states = folder / f"{way.shown.__name__}-{way.order.__name__}-{contest.one_in}-{len(learned.labels)}"
    with outputs_kept(folder), checkpoints_in(states):
        return finetune(model, Task(train=lambda: epoch, calibrate=None, score=lambda _: 0.0), way.training)


def gains(found: Mapping[str, object]) -> dict[str, dict[str, object]]:
    """What the teacher adds in each contest of which a seed's two scores are found, as rows of figures by name."""
    summed = {}
    for name, contest in CONTESTS.items():
        scores = [{way: found.get(row(name, way, seed)) for way in contest.ways} for seed in SEEDS]
        whole = [each for each in scores if None not in each.values()]
        if whole:
            summed[name] = _gain(name, contest, whole)
    return summed


def _gain(name: str, contest: Contest, scores: list[dict[str, object]]) -> dict[str, object]:
    each = [float(str(pair["taught"])) - float(str(pair["labels"])) for pair in scores]
    total = cost(trace(student(contest.family, 0).eval(), EXAMPLE))
    return {
        f"{name}_gain": round(statistics.mean(each), 4),
        f"{name}_gains": [round(gain, 4) for gain in each],
        **{f"{name}_{way}_scores": [pair[way] for pair in scores] for way in contest.ways},
        f"{name}_seeds": len(each),
        f"{name}_parameters": total.parameters,
        f"{name}_macs": total.macs,
    }


def student(family: str, seed: int) -> nn.Module:
    """The student with its first weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return zoo.family(family)(channels=3, outputs=10, **STUDENTS[family])
