"""MobileNetV2 (Sandler et al. 2018) with ReLU6 and random weights: for latencies, not for scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Expansion, channels, blocks and first stride of each stage (table 2 of the paper).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def normalized(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its batch norm."""
    return [nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """Expand, filter each channel, project; with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        first = [*normalized(inputs, wide, 1), nn.ReLU6()] if expansion > 1 else []
        second = [*normalized(wide, wide, 3, stride, wide), nn.ReLU6()]
        self.layers = nn.Sequential(*first, *second, *normalized(wide, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        return x + self.layers(x) if self.shortcut else self.layers(x)


def mobilenet_v2(width: float = 0.5, classes: int = 10) -> nn.Module:
    """The network in evaluation mode; widths are multiples of 8."""

    def scaled(channels: int) -> int:
        return max(8, int(channels * width + 4) // 8 * 8)

    torch.manual_seed(0)
    layers, channels = [*normalized(3, scaled(32), 3, 2), nn.ReLU6()], scaled(32)
    for expansion, outputs, count, stride in STAGES:
        for index in range(count):
            layers.append(Inverted(channels, scaled(outputs), stride if index == 0 else 1, expansion))
            channels = scaled(outputs)
    layers += [*normalized(channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, classes)).eval()
