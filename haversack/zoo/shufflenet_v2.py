"""ShuffleNetV2: half of the channels pass each block untouched, then both halves mix (Ma et al. 2018).

Tensors are named as in torchvision, whose weights load at widths 0.5, 1.0, 1.5 and 2.0.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from haversack.errors import RecipeError
from haversack.zoo._parts import Shrunk, check_sizes, convolution, initialise, repeated, rounded, strides

# Table 5 of the paper: at each width the channels of the first convolution, of stage 2 and of the last convolution.
_WIDTHS = (0.5, 1.0, 1.5, 2.0)
_CHANNELS = ((24, 24, 24, 24), (48, 116, 176, 244), (1024, 1024, 1024, 2048))
_BLOCKS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Two branches whose channels are shuffled; one of them is half of the input, where the output has its shape.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up. Raises
    RecipeError where `outputs` is odd.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs)
        if outputs % 2:
            raise RecipeError(f"{outputs} channels have no half.", mend="give an even number.")
        half = outputs // 2
        self.splits = stride == 1 and inputs == outputs
        read = half if self.splits else inputs
        beside = (*convolution(inputs, inputs, kernel, stride, groups=inputs), *convolution(inputs, half, 1), nn.ReLU())
        self.branch1 = nn.Sequential(*(() if self.splits else beside))
        self.branch2 = nn.Sequential(
            *convolution(read, half, 1),
            nn.ReLU(),
            *convolution(half, half, kernel, stride, groups=half),
            *convolution(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The map after the block, in which the branches' channels take turns."""
        passed, read = x.chunk(2, 1) if self.splits else (x, x)
        y = torch.cat([self.branch1(passed), self.branch2(read)], 1)
        shuffled: Tensor = y.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return shuffled


class ShuffleNetV2(nn.Module):
    """The network of Ma et al. (2018); widths between theirs have channels between theirs."""

    dimensions: ClassVar[int] = 2

    def __init__(  # noqa: PLR0913 - a network has as many sizes
        self,
        *,
        channels: int = 3,
        outputs: int = 1000,
        width: float = 1.0,
        depth: float = 1.0,
        downsampling: int = 32,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        first, pool, *others = strides((2, 2, 2, 2, 2), downsampling)
        inputs, stage, last = _widths(width)
        self.shrink = Shrunk(shrink, least=downsampling)
        self.conv1 = convolution(channels, inputs, stride=first).append(nn.ReLU())
        self.maxpool = nn.MaxPool2d(3, pool, 1) if pool > 1 else nn.Identity()
        stages = []
        for doubling, (blocks, stride) in enumerate(zip(_BLOCKS, others, strict=True)):
            out = stage << doubling
            units = [ShuffleUnit(out, out) for _ in range(1, repeated(blocks, depth))]
            stages.append(nn.Sequential(ShuffleUnit(inputs, out, stride=stride), *units))
            inputs = out
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = convolution(inputs, last, 1).append(nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, outputs)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for images (samples, channels, height, width)."""
        x = self.maxpool(self.conv1(self.shrink(x)))
        x = self.conv5(self.stage4(self.stage3(self.stage2(x))))
        scores: Tensor = self.fc(self.pool(x).flatten(1))
        return scores


def _widths(width: float) -> tuple[int, int, int]:
    """The channels of the first convolution, of stage 2 and of the last one: the paper's, or on lines between them."""
    inside = min(max(width, _WIDTHS[0]), _WIDTHS[-1])
    first, stage, last = (float(np.interp(inside, _WIDTHS, column)) * width / inside for column in _CHANNELS)
    return rounded(first), rounded(stage, 4), rounded(last)


FAMILY = ShuffleNetV2
