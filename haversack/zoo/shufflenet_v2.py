"""ShuffleNetV2: half of the channels pass each block untouched, then both halves mix (Ma et al. 2018).

Tensors are named as in torchvision, whose weights load at widths 0.5, 1.0, 1.5 and 2.0.
"""

from __future__ import annotations

from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn

from haversack.errors import RecipeError
from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, convolution, repeated, rounded

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


class ShuffleNetV2(Compact):
    """The network of Ma et al. (2018); widths between theirs have channels between theirs."""

    def __init__(self, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        first, pool, *others = sizes.strides(2, 2, 2, 2, 2)
        inputs, stage, last = _widths(sizes.width)
        conv = convolution(sizes.channels, inputs, stride=first).append(nn.ReLU())
        stages = []
        for doubling, (blocks, stride) in enumerate(zip(_BLOCKS, others, strict=True)):
            out = stage << doubling
            units = [ShuffleUnit(out, out) for _ in range(1, repeated(blocks, sizes.depth))]
            stages.append(nn.Sequential(ShuffleUnit(inputs, out, stride=stride), *units))
            inputs = out
        super().__init__(
            sizes,
            conv1=conv,
            maxpool=nn.MaxPool2d(3, pool, 1) if pool > 1 else nn.Identity(),
            stage2=stages[0],
            stage3=stages[1],
            stage4=stages[2],
            conv5=convolution(inputs, last, 1).append(nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(last, sizes.outputs),
        )


def _widths(width: float) -> tuple[int, int, int]:
    """The channels of the first convolution, of stage 2 and of the last one: the paper's, or on lines between them."""
    inside = min(max(width, _WIDTHS[0]), _WIDTHS[-1])
    first, stage, last = (float(np.interp(inside, _WIDTHS, column)) * width / inside for column in _CHANNELS)
    return rounded(first), rounded(stage, 4), rounded(last)


FAMILY = ShuffleNetV2
