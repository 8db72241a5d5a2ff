"""MobileNetV2: blocks that widen, look around and narrow, with a shortcut between narrow ends (Sandler et al. 2018).

Tensors are named as in torchvision, whose weights load at the default settings.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, convolution, dropout_of, initialise, repeated, rounded, strides

# Expansion, channels, how many blocks, and the stride of the first.
_STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


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


class MobileNetV2(nn.Module):
    """The network of Sandler et al. (2018). As theirs, its last convolution keeps `head` channels at widths below 1."""

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
        head: int = 1280,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth, head=head)
        first, *others = strides((2, *(stride for *_, stride in _STAGES)), downsampling)
        inputs, last = rounded(32 * width), rounded(head * max(1.0, width))
        features: list[nn.Module] = [convolution(channels, inputs, stride=first).append(nn.ReLU6())]
        for (expansion, out, blocks, _), stride in zip(_STAGES, others, strict=True):
            for block in range(repeated(blocks, depth)):
                shape = (inputs, rounded(out * width))
                features.append(InvertedResidual(*shape, stride=1 if block else stride, expansion=expansion))
                inputs = rounded(out * width)
        self.shrink = Shrunk(shrink, least=downsampling)
        self.features = nn.Sequential(*features, convolution(inputs, last, 1).append(nn.ReLU6()))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(dropout_of(dropout), nn.Linear(last, outputs))
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for images (samples, channels, height, width)."""
        scores: Tensor = self.classifier(self.pool(self.features(self.shrink(x))).flatten(1))
        return scores


FAMILY = MobileNetV2
