"""MobileOne: many parallel convolutions while it learns, which are one layer each in its files (Vasu et al. 2023).

`haversack.graph.merge` sums the branches up, here as in any network; so a trained one computes as fast as a plain chain
of layers. This is the smallest of the paper's networks, S0.
"""

from __future__ import annotations

from functools import partial
from typing import Unpack

from torch import Tensor, nn

from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, convolution, staged

# Table 2 of the paper: channels, how many blocks, the stride of the first, and the kernel.
_STAGES = ((48, 2, 2, 3), (128, 8, 2, 3), (256, 10, 2, 3), (1024, 1, 2, 3))


class Branched(nn.Module):
    """The sum of `branches` equal convolutions, one of kernel 1, and the input, each with a batch norm, rectified.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride) up. The input
    is left out where it has another shape than the output, and the kernel of 1 where all are.
    """

    def __init__(  # noqa: PLR0913 - a convolution's sizes
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, branches: int = 4
    ) -> None:
        super().__init__()
        check_sizes(branches=branches)
        shape = (inputs, outputs, kernel, stride, groups)
        summands: list[nn.Module] = [convolution(*shape) for _ in range(branches)]
        summands += [convolution(inputs, outputs, 1, stride, groups)] if kernel > 1 else []
        summands += [nn.BatchNorm2d(inputs)] if stride == 1 and inputs == outputs else []
        self.branches = nn.ModuleList(summands)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The rectified sum."""
        first, *others = self.branches
        y: Tensor = first(x)
        for branch in others:
            y += branch(x)
        rectified: Tensor = self.activation(y)
        return rectified


class MobileOneBlock(nn.Sequential):
    """A depthwise convolution, then one of 1 x 1, each in several branches.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride) up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, branches: int = 4) -> None:
        depthwise = Branched(inputs, inputs, kernel, stride, inputs, branches=branches)
        super().__init__(depthwise, Branched(inputs, outputs, 1, branches=branches))


class MobileOne(Compact):
    """The network of Vasu et al. (2023), with as many branches as theirs."""

    def __init__(self, *, branches: int = 4, **asked: Unpack[Asked]) -> None:
        sizes = Sizes(**asked)
        first, rows = sizes.strided(2, _STAGES)
        inputs, last = sizes.wide(_STAGES[0][0]), sizes.wide(_STAGES[-1][0])
        stem = Branched(sizes.channels, inputs, stride=first, branches=1)
        blocks = staged(rows, partial(MobileOneBlock, branches=branches), inputs, sizes)
        super().__init__(
            sizes,
            features=nn.Sequential(stem, *blocks),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(last, sizes.outputs),
        )


FAMILY = MobileOne
