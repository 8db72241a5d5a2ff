"""MobileOne: many parallel convolutions while it learns, which are one layer each in its files (Vasu et al. 2023).

`haversack.graph.merge` sums the branches up, here as in any network; so a trained one computes as fast as a plain chain
of layers. This is the smallest of the paper's networks, S0.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, convolution, initialise, repeated, rounded, strides

# Table 2 of the paper: channels, how many blocks, and the stride of the first.
_STAGES = ((48, 2, 2), (128, 8, 2), (256, 10, 2), (1024, 1, 2))


class Branched(nn.Module):
    """The sum of `branches` equal convolutions, one of kernel 1, and the input, each with a batch norm, rectified.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up. The input
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

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, branches: int = 4) -> None:
        depthwise = Branched(inputs, inputs, kernel, stride, inputs, branches=branches)
        super().__init__(depthwise, Branched(inputs, outputs, 1, branches=branches))


class MobileOne(nn.Module):
    """The network of Vasu et al. (2023), with as many branches as theirs."""

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
        branches: int = 4,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        first, *others = strides((2, *(stride for *_, stride in _STAGES)), downsampling)
        inputs = rounded(_STAGES[0][0] * width)
        features: list[nn.Module] = [Branched(channels, inputs, stride=first, branches=1)]
        for (out, blocks, _), stride in zip(_STAGES, others, strict=True):
            for block in range(repeated(blocks, depth)):
                shape = (inputs, rounded(out * width))
                features.append(MobileOneBlock(*shape, stride=1 if block else stride, branches=branches))
                inputs = rounded(out * width)
        self.shrink = Shrunk(shrink, least=downsampling)
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, outputs)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for images (samples, channels, height, width)."""
        scores: Tensor = self.classifier(self.pool(self.features(self.shrink(x))).flatten(1))
        return scores


FAMILY = MobileOne
