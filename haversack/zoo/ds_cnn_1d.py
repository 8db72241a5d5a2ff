"""DS-CNN over time, for sensors and sound: one wide convolution and separable ones (after Zhang et al. 2017).

The keyword spotter's layers with kernels of 9 points in time where it has 3 x 3 of a spectrogram; no dropout, which
networks this small do without.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, initialise, repeated, rounded, strides

_CHANNELS, _BLOCKS = 64, 4
_KERNEL = 9


class DepthwiseSeparable1d(nn.Sequential):
    """A depthwise convolution over time, then one that mixes channels, each with batch norm and rectifier.

    Maps (samples, inputs, time) to (samples, outputs, time / stride), rounded up.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        check_sizes(inputs=inputs, outputs=outputs, stride=stride)
        super().__init__(
            _convolution(inputs, inputs, _KERNEL, stride, groups=inputs), _convolution(inputs, outputs, kernel=1)
        )


class DsCnn1d(nn.Module):
    """Depthwise-separable convolutions for signals (samples, channels, time) of 16 points and more.

    A downsampling above the default gives strides to later blocks, up to 32 at the default depth.
    """

    dimensions: ClassVar[int] = 1

    def __init__(  # noqa: PLR0913 - a network has as many sizes
        self,
        *,
        channels: int = 1,
        outputs: int = 12,
        width: float = 1.0,
        depth: float = 1.0,
        downsampling: int = 4,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        first, *others = strides((2,) * (1 + repeated(_BLOCKS, depth)), downsampling)
        wide = rounded(_CHANNELS * width)
        self.shrink = Shrunk(shrink, dimensions=1, least=downsampling)
        self.stem = _convolution(channels, wide, _KERNEL, first)
        self.blocks = nn.Sequential(*(DepthwiseSeparable1d(wide, wide, stride) for stride in others))
        self.head = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(wide, outputs))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for signals (samples, channels, time)."""
        scores: Tensor = self.head(self.blocks(self.stem(self.shrink(x))))
        return scores


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution over time without bias, batch norm and rectifier, padded so that stride 1 keeps the extent."""
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm1d(outputs),
        nn.ReLU(),
    )


FAMILY = DsCnn1d
