"""CIFAR-10 and its pretrained ResNets, read from the data folder; decoded images are cached beside the results."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut without parameters (He 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.widened, self.stride = (outputs - inputs) // 2, stride

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.widened:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.widened, self.widened))
        return F.relu(y + x)


class ResNet(nn.Module):
    """A CIFAR ResNet of depth 6 * blocks + 2, whose three stages have `widths` channels."""

    def __init__(self, blocks: int, widths: tuple[int, int, int] = (16, 32, 64)) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = self._stage(first, first, blocks, 1)
        self.layer2 = self._stage(first, second, blocks, 2)
        self.layer3 = self._stage(second, third, blocks, 2)
        self.linear = nn.Linear(third, 10)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        first = Block(inputs, outputs, stride)
        return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.shape[3]).flatten(1))


def pretrained(data: Path, depth: int) -> ResNet:
    """The trained ResNet of that depth, in evaluation mode."""
    network = ResNet((depth - 2) // 6)
    network.load_state_dict(load_file(data / "cifar10-resnets" / f"resnet{depth}.safetensors"))
    return network.eval()


@dataclass(frozen=True)
class Images:
    """uint8 images (n, 3, 32, 32) with their labels."""

    pixels: Tensor
    labels: Tensor

    def first(self, count: int) -> Images:
        """The first `count` images."""
        return Images(self.pixels[:count], self.labels[:count])

    def last(self, count: int) -> Images:
        """The last `count` images."""
        return Images(self.pixels[-count:], self.labels[-count:])

    def inputs(self, some: slice | Tensor) -> Tensor:
        """Normalised float32 inputs."""
        return (self.pixels[some].float() / 255 - MEAN) / DEVIATION

    def accuracy(self, predict: object) -> float:
        """Share of all images whose label `predict` gives the highest score."""
        right = 0
        for start in range(0, len(self.labels), 500):
            some = slice(start, start + 500)
            right += int((predict(self.inputs(some)).argmax(1) == self.labels[some]).sum())  # type: ignore[operator]
        return right / len(self.labels)


def shuffled(images: Images) -> Tensor:
    """The numbers of all images in random order."""
    return torch.randperm(len(images.labels))


@dataclass(frozen=True)
class Epoch:
    """As many images as there are; `shown` draws the inputs of a batch, given its images' numbers in their `order`."""

    images: Images
    shown: Callable[[Images, Tensor], Tensor]
    order: Callable[[Images], Tensor] = shuffled
    batch: int = 128

    def __len__(self) -> int:
        return -(-len(self.images.labels) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for some in self.order(self.images).split(self.batch):
            yield self.shown(self.images, some), self.images.labels[some]


def shifted(images: Images, some: Tensor) -> Tensor:
    """The images of these numbers, each shifted by up to 4 pixels and half of them mirrored."""
    down, right = torch.randint(0, 9, (2, len(some)))
    return moved(images.inputs(some), down, right, torch.rand(len(some)) < 0.5)


def moved(inputs: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Each input cut out of its zero-padded self, 0 to 8 pixels down and right (4 is no shift), some mirrored."""
    span = torch.arange(32)
    rows, columns = down[:, None] + span, right[:, None] + span
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    sample, channel = torch.arange(len(inputs))[:, None, None, None], torch.arange(3)[None, :, None, None]
    return F.pad(inputs, (4, 4, 4, 4))[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def images(data: Path) -> tuple[Images, Images]:
    """The 50,000 training and the 10,000 test images, decoded once and then mapped from a file."""
    labels = np.load(data / "cifar10" / "labels.npz")
    return tuple(
        Images(torch.from_numpy(_pixels(data / "cifar10", part)), torch.from_numpy(labels[part]).long())
        for part in ("train", "test")
    )


def _pixels(folder: Path, part: str) -> np.ndarray:
    cache = Path(tempfile.gettempdir()) / f"haversack-cifar10-{part}.npy"
    if not cache.exists():
        unfinished = cache.with_suffix(".unfinished.npy")
        np.save(unfinished, np.concatenate([_decoded(file) for file in sorted(folder.glob(f"{part}_*.webp"))]))
        unfinished.replace(cache)
    return np.load(cache, mmap_mode="c")


def _decoded(path: Path) -> np.ndarray:
    from PIL import Image

    mosaic = np.asarray(Image.open(path).convert("RGB"))
    return mosaic.reshape(100, 32, 100, 32, 3).transpose(0, 2, 4, 1, 3).reshape(10000, 3, 32, 32)
