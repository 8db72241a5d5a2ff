"""MobileNetV1: convolutions split into one that looks around and one that mixes channels (Howard et al. 2017)."""

from __future__ import annotations

from typing import Unpack

from torch import nn

from haversack.zoo._parts import Asked, Compact, Sizes, convolution, staged

# Channels, how many blocks, the stride of the first, and the kernel.
_STAGES = ((64, 1, 1, 3), (128, 2, 2, 3), (256, 2, 2, 3), (512, 6, 2, 3), (1024, 2, 2, 3))


class DepthwiseSeparable(nn.Sequential):
    """A depthwise convolution, then one of 1 x 1, each with batch norm and rectifier.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride) up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        depthwise = convolution(inputs, inputs, kernel, stride, groups=inputs)
        super().__init__(depthwise.append(nn.ReLU()), convolution(inputs, outputs, 1).append(nn.ReLU()))


class MobileNetV1(Compact):
    """The network of Howard et al. (2017), whose width is their multiplier."""

    def __init__(self, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        first, rows = sizes.strided(2, _STAGES)
        inputs, last = sizes.wide(32), sizes.wide(_STAGES[-1][0])
        stem = convolution(sizes.channels, inputs, stride=first).append(nn.ReLU())
        super().__init__(
            sizes,
            features=nn.Sequential(stem, *staged(rows, DepthwiseSeparable, inputs, sizes)),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(last, sizes.outputs),
        )


FAMILY = MobileNetV1
