"""Small networks of every build that static quantization must survive, beyond those that pruning brings.

Tests that need one operation alone say what the network does (`model_of`).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from prunable_networks import NETWORKS as PRUNABLE
from prunable_networks import conv, settled
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.ranges import Ranges
from haversack.model import Model
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic


class HardExcite(nn.Module):
    """MobileNetV3's gate and activation (Howard et al. 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.down, self.up = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.end, self.head = nn.Conv2d(12, 16, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.stem(x)))
        x = x * F.hardsigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(F.adaptive_avg_pool2d(F.hardswish(self.end(x)), 1).flatten(1))


class UNet(nn.Module):
    """A skip by concatenation, once upsampled and once by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.inner, self.deep = conv(3, 8), conv(8, 12), conv(12, 12)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2)
        self.mid, self.end = conv(20, 8), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.outer(x)
        low = self.inner(F.max_pool2d(high, 2))
        deep = F.interpolate(self.deep(F.max_pool2d(low, 2)), scale_factor=2)
        return self.end(
            torch.cat([high, F.interpolate(self.mid(torch.cat([low, self.up_of(deep)], 1)), scale_factor=2)], 1)
        )

    def up_of(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.up(x), 2)


class BothWays(nn.Module):
    """A convolution that feeds a ReLU and a sum, and one ReLU module for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.relu(self.head(self.relu(x + self.second(self.relu(x)))))


class Shuffled(nn.Module):
    """ShuffleNetV2's halves (Ma et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = conv(3, 8), conv(4, 4), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        x = x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)
        return self.head(x.mean((2, 3)))


def vgg() -> nn.Module:
    """Pools before the activation, as in many tutorials, and after it."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5),
    )  # fmt: skip


def autoencoder() -> nn.Module:
    widths = [20, 16, 4, 16, 20]
    layers = [each for pair in pairwise(widths) for each in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def group_normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.1),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def flat() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 2, 3), nn.Hardtanh(-0.5, 0.5), nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten()
    )


IMAGE = torch.Size((2, 3, 8, 8))
NETWORKS = {
    **PRUNABLE,
    "hard excite": (HardExcite, IMAGE),
    "u-net": (UNet, IMAGE),
    "both ways": (BothWays, IMAGE),
    "shuffled": (Shuffled, IMAGE),
    "vgg": (vgg, IMAGE),
    "autoencoder": (autoencoder, torch.Size((2, 20))),
    "group normed": (group_normed, IMAGE),
    "flat": (flat, IMAGE),
}


def build(name: str) -> tuple[Model, Tensor]:
    """One of the networks as a model, and 64 inputs."""
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = settled(kind())
    x = torch.randn(64, *shape[1:])
    return Model(module, (x[:1],)), x


class Does(nn.Module):
    """What a function does with the input and some layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def model_of(function, *layers, shape=(3, 8, 8)) -> tuple[Model, Tensor]:
    """What the function does with some layers, as a model, and 32 inputs."""
    torch.manual_seed(0)
    x = torch.randn(32, *shape)
    return Model(Does(function, *layers).eval(), (x[:1],)), x


def convolution(into=3, out=4) -> nn.Module:
    return nn.Conv2d(into, out, 3, padding=1)


def task_on(x: Tensor) -> Task:
    """A task that only calibrates, on `x`."""
    return Task(train=list, calibrate=lambda: list(x.split(32)), score=lambda predict: 0.0)


def quantized(model: Model, x: Tensor, ranges: Ranges = "min_max", **settings) -> Model:
    return QuantizeStatic(ranges=ranges, **settings).apply(model, task_on(x))
