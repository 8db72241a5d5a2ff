"""EfficientNet-Lite: EfficientNet (Tan and Le 2019) without what integers do badly, attention and swish (Liu 2020).

Lite1 to Lite4 are width 1.0, 1.1, 1.2, 1.4 with depth 1.1, 1.2, 1.4, 1.8.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar

from torch import Tensor, nn

from haversack.zoo._parts import Shrunk, check_sizes, convolution, dropout_of, initialise, rounded, strides
from haversack.zoo.mobilenet_v2 import InvertedResidual

# Kernel, expansion, channels, how many blocks, and the stride of the first.
_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (5, 6, 40, 2, 2),
    (3, 6, 80, 3, 2),
    (5, 6, 112, 3, 1),
    (5, 6, 192, 4, 2),
    (3, 6, 320, 1, 1),
)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0; as in the larger ones, both ends keep their channels at widths above 1 and their depth."""

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
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        check_sizes(channels=channels, outputs=outputs, width=width, depth=depth)
        first, *others = strides((2, *(stride for *_, stride in _STAGES)), downsampling)
        inputs, last = rounded(32 * min(1.0, width)), rounded(1280 * min(1.0, width))
        features: list[nn.Module] = [convolution(channels, inputs, stride=first).append(nn.ReLU6())]
        for (kernel, expansion, out, blocks, _), stride in zip(_STAGES, others, strict=True):
            # The paper rounds repeats up; stages of one block are both ends.
            for block in range(ceil(blocks * depth) if blocks > 1 else 1):
                shape = (inputs, rounded(out * width), kernel)
                features.append(InvertedResidual(*shape, stride=1 if block else stride, expansion=expansion))
                inputs = rounded(out * width)
        self.shrink = Shrunk(shrink, least=downsampling)
        self.features = nn.Sequential(*features, convolution(inputs, last, 1).append(nn.ReLU6()))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(dropout_of(dropout), nn.Linear(last, outputs))
        initialise(self, epsilon=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for images (samples, channels, height, width)."""
        scores: Tensor = self.classifier(self.pool(self.features(self.shrink(x))).flatten(1))
        return scores


FAMILY = EfficientNetLite
