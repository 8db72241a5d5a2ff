"""Handwritten digits on a larger field, and where they lie: a network of two outputs, packed by one score over both.

A sample counts as right where its class is right and its place is off by a pixel at most. One third of the digits that
did not train chooses, the rest validates: no digit is in two of these, wherever it was put.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.limits import Budget
from haversack.packing import Settings, pack
from haversack.proving.prove import Effort, prove
from haversack.task import Predict, Task

FIELD, DIGIT = 20, 8
LIMITS = Budget(flash_bytes=60_000, latency_ratio=0.5, max_drop=0.02)
OUTPUTS = ("class", "place")
EPOCHS, QUICK_EPOCHS = 30, 3
FAR = 1.0
"""Pixels by which a place may be off."""


@dataclass(frozen=True)
class Samples:
    """Images with the class and the place of the digit in each, in pixels from the middle."""

    images: Tensor
    classes: Tensor
    places: Tensor

    def batches(self, size: int, seed: int) -> list[tuple[Tensor, tuple[Tensor, Tensor]]]:
        """One epoch in random order."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return [(self.images[some], (self.classes[some], self.places[some])) for some in order.split(size)]

    def right(self, predict: Predict) -> float:
        """The share of samples whose class is right and whose place is nearly so."""
        seen, place = predict(self.images)
        near = (place - self.places).abs().amax(1) <= FAR
        return float(((seen.argmax(1) == self.classes) & near).float().mean())


class Located(nn.Module):
    """Convolutions, and a head for each output."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 32, 1), (32, 64, 2), (64, 64, 2))
        self.body = nn.Sequential(*(layer for size in sizes for layer in _block(*size)))
        side = FIELD // 4
        self.seen, self.place = nn.Linear(64 * side * side, 10), nn.Linear(64 * side * side, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The class scores and the place."""
        found = self.body(x).flatten(1)
        return {"class": self.seen(found), "place": self.place(found)}


def _block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def samples() -> tuple[Samples, Samples, Samples]:
    """Those that train, that choose, and that validate."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    corners = torch.randint(0, FIELD - DIGIT + 1, (len(order), 2), generator=draw)
    images = torch.zeros(len(order), 1, FIELD, FIELD)
    for image, (top, left), digit in zip(images, corners.tolist(), torch.tensor(digits.images)[order], strict=True):
        image[0, top : top + DIGIT, left : left + DIGIT] = digit / 16
    places = (corners + DIGIT / 2 - FIELD / 2).float()
    classes = torch.tensor(digits.target)[order]
    train, choose, test = (
        Samples(images[part], classes[part], places[part])
        for part in (slice(1200), slice(1200, 1400), slice(1400, None))
    )
    return train, choose, test


def trained(train: Samples, epochs: int) -> nn.Module:
    """The network after so many epochs."""
    torch.manual_seed(0)
    network = Located()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for epoch in range(epochs):
        for images, (classes, places) in train.batches(64, epoch):
            found = network(images)
            loss = F.cross_entropy(found["class"], classes) + F.mse_loss(found["place"], places)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """Its figures before and after, and whether every runtime gives both outputs as it promised."""
    del data  # scikit-learn brings the digits
    train, choose, test = samples()
    network = trained(train, QUICK_EPOCHS if quick else EPOCHS)
    task = Task(
        lambda: train.batches(64, int(torch.randint(1 << 30, ()))), lambda: list(train.images[:256].split(64)),
        choose.right, validate=test.right, samples=len(choose.images),
        kind=("classification", "regression"), outputs=OUTPUTS,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        settings = Settings(out=Path(folder) / "out", cache=Path(folder) / "cache", epochs=2 if quick else 8)
        packed = pack(network, task, find_device("host"), LIMITS, settings)
        seconds = time.monotonic() - started
        proof = prove(Path(folder) / "out", network, task, Effort())
    measured, before = packed.artifact.measurement, packed.baseline
    figures = {
        "float_score": before.validated and before.validated.value,
        "score": measured.validated and measured.validated.value,
        "float_flash_bytes": before.flash_bytes.value,
        "flash_bytes": measured.flash_bytes.value,
        "latency_ratio": measured.latency_ratio and measured.latency_ratio.value,
        "seconds": seconds,
        "works": int(not proof.broken),
        "recipe": packed.artifact.recipe.to_toml(),
    }
    return {f"two_outputs.{name}": value for name, value in figures.items() if value is not None}
