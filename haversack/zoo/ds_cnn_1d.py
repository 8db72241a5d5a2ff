"""DS-CNN over time, for sensors and sound: one wide convolution and separable ones (after Zhang et al. 2017).

The keyword spotter's layers with kernels of 9 points in time where it has 3 x 3 of a spectrogram; no dropout, which
networks this small do without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Unpack

from torch import nn

from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, repeated

_PAPERS = Sizes(channels=1, outputs=12, downsampling=4)
_CHANNELS, _BLOCKS = 64, 4
_KERNEL = 9


class DepthwiseSeparable1d(nn.Sequential):
    """A depthwise convolution over time, then one that mixes channels, each with batch norm and rectifier.

    Maps (samples, inputs, time) to (samples, outputs, time / stride) up.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        check_sizes(inputs=inputs, outputs=outputs, stride=stride)
        super().__init__(
            _convolution(inputs, inputs, _KERNEL, stride, groups=inputs), _convolution(inputs, outputs, kernel=1)
        )


class DsCnn1d(Compact):
    """Depthwise-separable convolutions for signals (samples, channels, time) of 16 points and more.

    A downsampling above the default gives strides to later blocks, up to 32 at the default depth.
    """

    dimensions: ClassVar[int] = 1

    def __init__(self, **asked: Unpack[Asked]) -> None:
        sizes = replace(_PAPERS, **asked)
        first, *others = sizes.strides(*(2,) * (1 + repeated(_BLOCKS, sizes.depth)))
        wide = sizes.wide(_CHANNELS)
        super().__init__(
            sizes,
            stem=_convolution(sizes.channels, wide, _KERNEL, first),
            blocks=nn.Sequential(*(DepthwiseSeparable1d(wide, wide, stride) for stride in others)),
            head=nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(wide, sizes.outputs)),
        )


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution over time without bias, batch norm and rectifier, padded so that stride 1 keeps the extent."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    )


FAMILY = DsCnn1d
