"""SqueezeNet 1.1: few channels in, many out, by kernels of 1 and of 3 side by side (Iandola et al. 2016).

Tensors are named as in torchvision, whose weights of `squeezenet1_1` load at the default settings.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, dropout_of, repeated

_PAPERS = Sizes(downsampling=16)
# Channels between and after, and how many blocks; a pool comes before each stage but the last.
_STAGES = ((16, 64, 2), (32, 128, 2), (48, 192, 2), (64, 256, 2))


class Fire(nn.Module):
    """A 1 x 1 convolution to `squeezed` channels, then as many channels of kernel 1 as of kernel 3.

    Maps (samples, inputs, height, width) to (samples, 2 * expanded, height, width).
    """

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        check_sizes(inputs=inputs, squeezed=squeezed, expanded=expanded)
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.squeeze_activation = nn.ReLU()
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand1x1_activation = nn.ReLU()
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.expand3x3_activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Both kinds of channels, those of kernel 1 first."""
        x = self.squeeze_activation(self.squeeze(x))
        near = self.expand1x1_activation(self.expand1x1(x))
        return torch.cat([near, self.expand3x3_activation(self.expand3x3(x))], 1)


class SqueezeNet(Compact):
    """The network of Iandola et al. (2016) in its version 1.1, which does the same with 2.4 times less computation.

    No output is below zero.
    """

    def __init__(self, *, dropout: float = 0.5, **asked: Unpack[Asked]) -> None:
        sizes = replace(_PAPERS, **asked)
        first, *pools = sizes.strides(2, 2, 2, 2)
        inputs = sizes.wide(64)
        features: list[nn.Module] = [nn.Conv2d(sizes.channels, inputs, 3, first), nn.ReLU()]
        for (squeezed, expanded, blocks), pool in zip(_STAGES, (*pools, 1), strict=True):
            features += [nn.MaxPool2d(3, 2, ceil_mode=True)] if pool > 1 else []
            for _ in range(repeated(blocks, sizes.depth)):
                features.append(Fire(inputs, sizes.wide(squeezed), sizes.wide(expanded)))
                inputs = 2 * sizes.wide(expanded)
        super().__init__(
            sizes,
            least=max(3, sizes.downsampling + 1),  # the first convolution has no padding
            features=nn.Sequential(*features),
            classifier=nn.Sequential(
                dropout_of(dropout), nn.Conv2d(inputs, sizes.outputs, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
            ),
            flatten=nn.Flatten(),
        )


FAMILY = SqueezeNet
