"""DS-CNN: the keyword spotter of MLPerf Tiny, one wide convolution and four separable ones (Zhang et al. 2017).

At 1 channel, 12 outputs and (1, 49, 10) coefficients it is the benchmark's reference (Banbury et al. 2021), up to the
last row of the last map, which that leaves out of its average. The reference's convolutions have biases, which the
means of the batch norms can hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import nn

from haversack.zoo._parts import Asked, Compact, Sizes, repeated
from haversack.zoo.mobilenet_v1 import DepthwiseSeparable

_PAPERS = Sizes(channels=1, outputs=12, downsampling=2)
_CHANNELS, _BLOCKS = 64, 4
# Along time and along frequency.
_KERNEL = (10, 4)


class DsCnn(Compact):
    """The network of Zhang et al. (2017) in its small size, for spectrograms (samples, channels, time, frequency).

    A downsampling above the default gives strides to the separable convolutions.
    """

    def __init__(self, **asked: Unpack[Asked]) -> None:
        sizes = replace(_PAPERS, **asked)
        first, *others = sizes.strides(*(2,) * (1 + repeated(_BLOCKS, sizes.depth)))
        wide = sizes.wide(_CHANNELS)
        # As in TensorFlow, the odd pixel of an even kernel comes last.
        (above, below), (left, right) = (((size - 1) // 2, size // 2) for size in _KERNEL)
        stem = nn.Conv2d(sizes.channels, wide, _KERNEL, first, bias=False)
        super().__init__(
            sizes,
            epsilon=1e-3,
            pad=nn.ZeroPad2d((left, right, above, below)),
            stem=nn.Sequential(stem, nn.BatchNorm2d(wide), nn.ReLU(), nn.Dropout(0.2)),
            blocks=nn.Sequential(*(DepthwiseSeparable(wide, wide, stride=stride) for stride in others)),
            head=nn.Sequential(nn.Dropout(0.4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, sizes.outputs)),
        )


FAMILY = DsCnn
