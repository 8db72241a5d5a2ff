"""EfficientNet-Lite: EfficientNet (Tan and Le 2019) without what integers do badly, attention and swish (Liu 2020).

Lite1 to Lite4 are width 1.0, 1.1, 1.2, 1.4 with depth 1.1, 1.2, 1.4, 1.8.
"""

from __future__ import annotations

from math import ceil
from typing import Unpack

from torch import nn

from haversack.zoo._parts import Asked, Compact, Sizes, convolution, dropout_of, rounded, staged
from haversack.zoo.mobilenet_v2 import InvertedResidual

# Channels, how many blocks, the stride of the first, the kernel, and the expansion.
_STAGES = (
    (16, 1, 1, 3, 1),
    (24, 2, 2, 3, 6),
    (40, 2, 2, 5, 6),
    (80, 3, 2, 3, 6),
    (112, 3, 1, 5, 6),
    (192, 4, 2, 5, 6),
    (320, 1, 1, 3, 6),
)


class EfficientNetLite(Compact):
    """EfficientNet-Lite0; as in the larger ones, both ends keep their channels at widths above 1 and their depth."""

    def __init__(self, *, dropout: float = 0.2, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        first, rows = sizes.strided(2, _STAGES)
        inputs, last = (rounded(count * min(1.0, sizes.width)) for count in (32, 1280))
        stem = convolution(sizes.channels, inputs, stride=first).append(nn.ReLU6())
        blocks = staged(rows, InvertedResidual, inputs, sizes, _repeats)
        super().__init__(
            sizes,
            epsilon=1e-3,
            features=nn.Sequential(stem, *blocks, convolution(sizes.wide(_STAGES[-1][0]), last, 1).append(nn.ReLU6())),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(dropout_of(dropout), nn.Linear(last, sizes.outputs)),
        )


def _repeats(blocks: int, depth: float) -> int:
    """The paper rounds repeats up; stages of one block are both ends."""
    return ceil(blocks * depth) if blocks > 1 else 1


FAMILY = EfficientNetLite
