"""ShuffleNetV1: kernels of 1 that mix channels group by group, and shuffles that mix the groups (Zhang et al. 2018)."""

from __future__ import annotations

import math
from typing import Unpack

import torch
from torch import Tensor, nn

from haversack.errors import RecipeError
from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, convolution, repeated, rounded

# Table 1 of the paper: the channels of stage 2 for each number of groups, which cost the same.
_CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_BLOCKS = (4, 8, 4)


class GroupUnit(nn.Module):
    """A grouped 1 x 1 convolution, a shuffle, a depthwise convolution and a grouped 1 x 1 one, beside the input.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up. The input
    is added where it has as many channels as the output; otherwise it is averaged to the output's size, and the unit
    computes the channels that are missing. With `dense` the first convolution is not grouped. Raises RecipeError where
    the groups do not divide a quarter of `outputs` and the channels that are missing.
    """

    def __init__(self, inputs: int, outputs: int, groups: int = 3, stride: int = 1, *, dense: bool = False) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs, groups=groups, stride=stride)
        self.adds = stride == 1 and inputs == outputs
        inner, computed = outputs // 4, outputs if self.adds else outputs - inputs
        if computed <= 0 or inner % groups or computed % groups or (inputs % groups and not dense):
            raise RecipeError(
                f"{groups} groups do not share {inputs} channels in and {outputs} out.",
                mend=f"give multiples of {4 * groups}, and more out than in where the stride is above 1.",
            )
        self.groups = groups
        self.narrow = convolution(inputs, inner, 1, groups=1 if dense else groups).append(nn.ReLU())
        self.depthwise = convolution(inner, inner, 3, stride, groups=inner)
        self.widen = convolution(inner, computed, 1, groups=groups)
        self.pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False) if stride > 1 else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The map after the block."""
        y = self.widen(self.depthwise(self.shuffled(self.narrow(x))))
        both: Tensor = self.activation(x + y if self.adds else torch.cat([self.pool(x), y], 1))
        return both

    def shuffled(self, x: Tensor) -> Tensor:
        """The map with the groups' channels taking turns."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2) if self.groups > 1 else x


class ShuffleNetV1(Compact):
    """The network of Zhang et al. (2018), whose width is their scale factor and whose convolutions have `groups`."""

    def __init__(self, *, groups: int = 3, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        if groups not in _CHANNELS:
            raise RecipeError(f"groups is {groups!r}.", mend=f"choose from {', '.join(map(str, _CHANNELS))}.")
        first, pool, *others = sizes.strides(2, 2, 2, 2, 2)
        inputs = rounded(24 * sizes.width, math.lcm(4, groups))
        stage = rounded(_CHANNELS[groups] * sizes.width, 4 * groups)
        conv = convolution(sizes.channels, inputs, stride=first).append(nn.ReLU())
        stages = []
        for doubling, (blocks, stride) in enumerate(zip(_BLOCKS, others, strict=True)):
            out = stage << doubling
            units = [GroupUnit(out, out, groups) for _ in range(1, repeated(blocks, sizes.depth))]
            # Before stage 2 there are too few channels to share out, says the paper.
            stages.append(nn.Sequential(GroupUnit(inputs, out, groups, stride, dense=not doubling), *units))
            inputs = out
        super().__init__(
            sizes,
            conv=conv,
            maxpool=nn.MaxPool2d(3, pool, 1) if pool > 1 else nn.Identity(),
            stages=nn.Sequential(*stages),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(inputs, sizes.outputs),
        )


FAMILY = ShuffleNetV1
