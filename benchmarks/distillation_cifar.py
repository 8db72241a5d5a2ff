"""Distillation on CIFAR-10: ResNet-56 (93.39 %) teaches a student of a tenth of its work.

Each image has a few fixed shifts and reflections, so that the teacher's outputs are computed once for each of them.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from cifar10 import Images, ResNet, images, moved, pretrained
from resnet20_task import HELD_BACK
from torch import Tensor, nn

import haversack
from haversack.finetune import Training, finetune
from haversack.graph.cost import cost
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.task import Task

VIEWS = 6
TEACHER_DEPTH = 56
KEPT = Path(tempfile.gettempdir()) / "haversack-distillation"
EXAMPLE = (torch.zeros(1, 3, 32, 32),)


@dataclass(frozen=True)
class Student:
    """A network to be trained, and how."""

    name: str
    network: Callable[[], nn.Module]
    training: Training

    def model(self, seed: int, teacher: nn.Module | None = None) -> Model:
        """The untrained network, whose weights follow from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Model(self.network(), EXAMPLE, teacher=teacher)


RESNET8 = Student(
    "resnet8",
    partial(ResNet, 1),
    Training(epochs=80, learning_rate=0.2, weight_decay=1e-4, outputs="dist", distillation=0.67, temperature=4.0),
)


class Remembered(nn.Module):
    """A teacher that computes its outputs for an input once; it knows inputs again by what they hold."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher
        self.known: dict[bytes, Tensor] = {}

    def __deepcopy__(self, _: object) -> Remembered:
        return self  # Copies of a teacher share what they know.

    def forward(self, x: Tensor) -> Tensor:
        """The teacher's outputs (samples, classes)."""
        keys = [hashlib.blake2b(each.numpy().data, digest_size=16).digest() for each in x.contiguous()]
        new = [place for place, key in enumerate(keys) if key not in self.known]
        if new:
            self.known |= zip([keys[place] for place in new], self.teacher(x[new]).float().unbind(), strict=True)
        return torch.stack([self.known[key] for key in keys])


@dataclass(frozen=True)
class Epoch:
    """One epoch of shifted and mirrored images in random order, of a few versions that are the same in every epoch."""

    images: Images
    batch: int = 128

    def __len__(self) -> int:
        return -(-len(self.images.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for some in torch.randperm(len(self.images.labels)).split(self.batch):
            view = torch.randint(VIEWS, (len(some),))
            down, right, mirrored = _views(len(self.images.labels))[:, view, some]
            yield moved(self.images.inputs(some), down, right, mirrored > 0), self.images.labels[some]


@cache
def _views(count: int) -> Tensor:
    """How far down and right each image is moved, and whether it is mirrored; shape (3, views, images)."""
    fixed = torch.Generator().manual_seed(0)
    shifts = torch.randint(0, 9, (2, VIEWS, count), generator=fixed)
    return torch.cat([shifts, torch.randint(0, 2, (1, VIEWS, count), generator=fixed)])


@dataclass(frozen=True)
class Bench:
    """Where students are trained and scored."""

    data: Path
    quick: bool

    def score(self, student: Student, seed: int, *, taught: bool = True) -> Scored:
        """The trained student's score on the test images; remembered for the same code and settings."""
        training = replace(student.training, seed=seed, epochs=1 if self.quick else student.training.epochs)
        wanted = (digest(), student.name, training, taught, self.quick)
        kept = KEPT / f"{hashlib.sha256(repr(wanted).encode()).hexdigest()}.json"
        if not kept.exists():
            scored = self._scored(student.model(seed, _teacher(self.data) if taught else None), training)
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(json.dumps(scored), encoding="utf-8")
        return Scored(*json.loads(kept.read_text(encoding="utf-8")))

    def _scored(self, model: Model, training: Training) -> Scored:
        begin = time.perf_counter()
        trained = finetune(model, self._task(), training)
        taken = time.perf_counter() - begin
        test = images(self.data)[1].first(1_000 if self.quick else 10_000)
        with torch.no_grad():
            return Scored(round(test.accuracy(trained), 4), round(taken, 1))

    def _task(self) -> Task:
        known = images(self.data)[0]
        epoch = Epoch(known.first(1_280) if self.quick else known)
        return Task(train=lambda: epoch, calibrate=None, score=known.last(HELD_BACK).accuracy)


@cache
def _teacher(data: Path) -> Remembered:
    return Remembered(pretrained(data, TEACHER_DEPTH))


class Scored(NamedTuple):
    """A share of the test images, and how long the training took."""

    score: float
    seconds: float


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The student's score on the test images, and what it costs."""
    bench = Bench(data, quick=quick)
    scored = bench.score(RESNET8, 0)
    found = {"score": scored.score, **_costs(RESNET8, [scored])}
    return {f"resnet8.{name}": value for name, value in found.items()}


def _costs(student: Student, scored: Sequence[Scored]) -> dict[str, object]:
    total = cost(trace(student.model(0).module.eval(), EXAMPLE))
    return {
        "parameters": total.parameters,
        "macs": total.macs,
        "epochs": student.training.epochs,
        "minutes": round(sum(each.seconds for each in scored) / 60, 1),
    }


@cache
def digest() -> str:
    """A hash of the code that decides a score."""
    folders = (Path(haversack.__file__).parent, Path(__file__).parent)
    return hashlib.sha256(b"".join(p.read_bytes() for each in folders for p in sorted(each.rglob("*.py")))).hexdigest()
