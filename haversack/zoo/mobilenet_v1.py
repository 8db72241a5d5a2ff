"""MobileNetV1: convolutions split into one that looks around and one that mixes channels (Howard et al. 2017)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, convolution, initialise, repeated, rounded, strides

# Channels, how many blocks, and the stride of the first.
_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))


class DepthwiseSeparable(nn.Sequential):
    """A depthwise convolution, then one of 1 x 1, each with batch norm and rectifier.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        depthwise = convolution(inputs, inputs, kernel, stride, groups=inputs)
        super().__init__(depthwise.append(nn.ReLU()), convolution(inputs, outputs, 1).append(nn.ReLU()))


class MobileNetV1(nn.Module):
    """The network of Howard et al. (2017), whose width is their multiplier."""

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
        first, *others = strides((2, *(stride for *_, stride in _STAGES)), downsampling)
        features = [convolution(channels, rounded(32 * width), stride=first).append(nn.ReLU())]
        inputs = rounded(32 * width)
        for (out, blocks, _), stride in zip(_STAGES, others, strict=True):
            for block in range(repeated(blocks, depth)):
                features.append(DepthwiseSeparable(inputs, rounded(out * width), stride=1 if block else stride))
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


FAMILY = MobileNetV1
