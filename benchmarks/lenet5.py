"""LeNet-5-Caffe and MNIST, as a benchmark's parts and as a task for haversack; no test image is in the task.

HAVERSACK_DATA=../shared/data haversack weigh benchmarks/lenet5.py --device raspberry-pi-4

The network is trained from scratch the first time, in some minutes on one thread, and then kept in the folder for
temporary files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.model import Model
from haversack.task import Task
from haversack.training import Training, finetune

DATA = Path(os.environ.get("HAVERSACK_DATA", "../shared/data"))
HELD_BACK = 5_000
EPOCHS, SEED = 20, 0
MEAN, DEVIATION = 0.1307, 0.3081


class LeNet5(nn.Module):
    """Caffe's LeNet-5 (20-50-500), 431,080 parameters; a ReLU follows each convolution as in later papers' copies."""

    def __init__(self, first: int = 20, second: int = 50, hidden: int = 500) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 5)
        self.fc1, self.fc2 = nn.Linear(16 * second, hidden), nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images (n, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@dataclass(frozen=True)
class Digits:
    """uint8 images (n, 28, 28) with their labels."""

    pixels: Tensor
    labels: Tensor

    def __getitem__(self, some: slice | Tensor) -> Digits:
        return Digits(self.pixels[some], self.labels[some])

    @property
    def inputs(self) -> Tensor:
        """Normalised float32 inputs (n, 1, 28, 28)."""
        return ((self.pixels.float() / 255 - MEAN) / DEVIATION)[:, None]

    def accuracy(self, predict: Callable[[Tensor], Tensor]) -> float:
        """Share of all images whose label `predict` gives the highest score."""
        parts = [self[start : start + 500] for start in range(0, len(self.labels), 500)]
        with torch.no_grad():
            return sum(int((predict(part.inputs).argmax(1) == part.labels).sum()) for part in parts) / len(self.labels)


@dataclass(frozen=True)
class Epoch:
    """One epoch of distorted batches in random order; its length is known."""

    digits: Digits
    batch: int = 128

    def __len__(self) -> int:
        return -(-len(self.digits.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for some in torch.randperm(len(self.digits.labels)).split(self.batch):
            part = self.digits[some]
            yield distorted(part.inputs), part.labels


def distorted(inputs: Tensor) -> Tensor:
    """Each image shifted by up to 2 pixels, and turned, stretched and sheared by up to a tenth."""
    count, side = len(inputs), inputs.shape[-1]
    maps = torch.eye(2, 3) + torch.empty(count, 2, 3).uniform_(-0.1, 0.1)
    maps[:, :, 2] *= 2 * 2 / side / 0.1
    grid = F.affine_grid(maps, list(inputs.shape), align_corners=False)
    ground = -MEAN / DEVIATION
    return F.grid_sample(inputs - ground, grid, align_corners=False) + ground


@cache
def digits(data: Path) -> tuple[Digits, Digits]:
    """The 60,000 training and the 10,000 test images."""
    arrays = np.load(data / "mnist" / "mnist.npz")
    train, test = (
        Digits(torch.from_numpy(arrays[f"x_{part}"]), torch.from_numpy(arrays[f"y_{part}"]).long())
        for part in ("train", "test")
    )
    return train, test


def trained(task: Task, epochs: int) -> LeNet5:
    """LeNet-5 trained from scratch, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        fresh = Model(LeNet5().eval(), (torch.zeros(1, 1, 28, 28),))
    return cast("LeNet5", finetune(fresh, task, Training(epochs, learning_rate=0.05, weight_decay=5e-4, seed=SEED)))


def network(data: Path = DATA) -> LeNet5:
    """The trained network."""
    file = Path(tempfile.gettempdir()) / "haversack-lenet5.safetensors"
    if not file.exists():
        unfinished = file.with_suffix(f".{os.getpid()}")
        save_file(trained(task(data), EPOCHS).state_dict(), unfinished)
        unfinished.replace(file)
    found = LeNet5()
    found.load_state_dict(load_file(file))
    return found.eval()


def task(data: Path = DATA, *, learn: int = 60_000 - HELD_BACK) -> Task:
    """500 training images calibrate, the last 5,000 are held back to score candidates, `learn` of the others train."""
    train = digits(data)[0]
    calibrating = train[torch.randperm(learn, generator=torch.Generator().manual_seed(0))[:500]]
    return Task(
        train=lambda: Epoch(train[:learn]),
        calibrate=lambda: calibrating.inputs.split(100),
        score=train[-HELD_BACK:].accuracy,
    )
