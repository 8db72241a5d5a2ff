"""MobileNetV2: blocks that widen, look around and narrow, with a shortcut between narrow ends (Sandler et al. 2018).

Tensors are named as in torchvision, whose weights load at the default settings.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, convolution, dropout_of, rounded, staged

# Channels, how many blocks, the stride of the first, the kernel, and the expansion.
_STAGES = (
    (16, 1, 1, 3, 1),
    (24, 2, 2, 3, 6),
    (32, 3, 2, 3, 6),
    (64, 4, 2, 3, 6),
    (96, 3, 1, 3, 6),
    (160, 3, 2, 3, 6),
    (320, 1, 1, 3, 6),
)


class InvertedResidual(nn.Module):
    """A 1 x 1 convolution to `expansion` times the inputs, a depthwise one, and a 1 x 1 one without rectifier.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up. The input
    is added where it has the output's shape. An expansion of 1 needs no first convolution.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, expansion: float = 6) -> None:
        super().__init__()
        check_sizes(expansion=expansion)
        inner = max(1, round(inputs * expansion))
        layers: list[nn.Module] = [] if expansion == 1 else [convolution(inputs, inner, 1).append(nn.ReLU6())]
        layers += [convolution(inner, inner, kernel, stride, groups=inner).append(nn.ReLU6())]
        self.conv = nn.Sequential(*layers, *convolution(inner, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The map after the block."""
        y: Tensor = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(Compact):
    """The network of Sandler et al. (2018). As theirs, its last convolution keeps `head` channels at widths below 1."""

    def __init__(self, *, head: int = 1280, dropout: float = 0.2, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        check_sizes(head=head)
        first, rows = sizes.strided(2, _STAGES)
        inputs, narrow = sizes.wide(32), sizes.wide(_STAGES[-1][0])
        last = rounded(head * max(1.0, sizes.width))
        stem = convolution(sizes.channels, inputs, stride=first).append(nn.ReLU6())
        blocks = staged(rows, InvertedResidual, inputs, sizes)
        super().__init__(
            sizes,
            features=nn.Sequential(stem, *blocks, convolution(narrow, last, 1).append(nn.ReLU6())),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(dropout_of(dropout), nn.Linear(last, sizes.outputs)),
        )


FAMILY = MobileNetV2
