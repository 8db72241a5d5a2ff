"""DS-CNN: the keyword spotter of MLPerf Tiny, one wide convolution and four separable ones (Zhang et al. 2017).

At 1 channel, 12 outputs and (1, 49, 10) coefficients it is the benchmark's reference (Banbury et al. 2021), up to the
last row of the last map, which that leaves out of its average. The reference's convolutions have biases, which the
means of the batch norms can hold.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, initialise, repeated, rounded, strides
from haversack.zoo.mobilenet_v1 import DepthwiseSeparable

_CHANNELS, _BLOCKS = 64, 4
# Along time and along frequency.
_KERNEL = (10, 4)


class DsCnn(nn.Module):
    """The network of Zhang et al. (2017) in its small size, for spectrograms (samples, channels, time, frequency).

    A downsampling above the default gives strides to the separable convolutions.
    """

    dimensions: ClassVar[int] = 2

    def __init__(  # noqa: PLR0913 - a network has as many sizes
        self,
        *,
        channels: int = 1,
        outputs: int = 12,
        width: float = 1.0,
        depth: float = 1.0,
        downsampling: int = 2,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        first, *others = strides((2,) * (1 + repeated(_BLOCKS, depth)), downsampling)
        wide = rounded(_CHANNELS * width)
        self.shrink = Shrunk(shrink, least=downsampling)
        # As in TensorFlow, the odd pixel of an even kernel comes last.
        (above, below), (left, right) = (((size - 1) // 2, size // 2) for size in _KERNEL)
        self.pad = nn.ZeroPad2d((left, right, above, below))
        self.stem = nn.Sequential(
            nn.Conv2d(channels, wide, _KERNEL, first, bias=False), nn.BatchNorm2d(wide), nn.ReLU(), nn.Dropout(0.2)
        )
        self.blocks = nn.Sequential(*(DepthwiseSeparable(wide, wide, stride=stride) for stride in others))
        self.head = nn.Sequential(nn.Dropout(0.4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, outputs))
        initialise(self, epsilon=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for spectrograms or images (samples, channels, height, width)."""
        scores: Tensor = self.head(self.blocks(self.stem(self.pad(self.shrink(x)))))
        return scores


FAMILY = DsCnn
