"""MobileNetV3: inverted residuals with attention to channels and a swish that integers can do (Howard et al. 2019).

Tensors are named as in torchvision, whose weights load at the default settings (small) and with `large`.
"""

from __future__ import annotations

from itertools import chain, islice, repeat
from typing import NamedTuple, Unpack

from torch import Tensor, nn

from haversack.zoo._parts import Asked, Compact, Sizes, check_sizes, convolution, dropout_of, repeated, rounded


class _Stage(NamedTuple):
    outputs: int
    kernel: int
    stride: int
    excite: bool
    swish: bool
    expanded: tuple[int, ...]


# Tables 1 and 2 of the paper: channels, kernel, stride of the first block, what kind, and one width a block.
_LARGE = (
    _Stage(16, 3, 1, False, False, (16,)),
    _Stage(24, 3, 2, False, False, (64, 72)),
    _Stage(40, 5, 2, True, False, (72, 120, 120)),
    _Stage(80, 3, 2, False, True, (240, 200, 184, 184)),
    _Stage(112, 3, 1, True, True, (480, 672)),
    _Stage(160, 5, 2, True, True, (672, 960, 960)),
)
_SMALL = (
    _Stage(16, 3, 2, True, False, (16,)),
    _Stage(24, 3, 2, False, False, (72, 88)),
    _Stage(40, 5, 2, True, True, (96, 240, 240)),
    _Stage(48, 5, 1, True, True, (120, 144)),
    _Stage(96, 5, 2, True, True, (288, 576, 576)),
)


class SqueezeExcite(nn.Module):
    """Every channel times a share that two small layers draw from the means of all channels (Hu et al. 2018).

    Maps (samples, channels, height, width) to the same shape.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        check_sizes(channels=channels, squeezed=squeezed)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.ReLU()
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """The weighted channels."""
        shares: Tensor = self.scale_activation(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return shares * x


class Bottleneck(nn.Module):
    """A 1 x 1 convolution to `expanded` channels, a depthwise one, attention if `excite`, and a linear 1 x 1 one.

    Maps (samples, inputs, height, width) to (samples, outputs, height / stride, width / stride), rounded up. The input
    is added where it has the output's shape. As many channels as inputs need no first convolution.
    """

    def __init__(  # noqa: PLR0913 - a row of the paper's table
        self,
        inputs: int,
        outputs: int,
        expanded: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        excite: bool = True,
        swish: bool = True,
    ) -> None:
        super().__init__()
        act = nn.Hardswish if swish else nn.ReLU
        layers: list[nn.Module] = [] if expanded == inputs else [convolution(inputs, expanded, 1).append(act())]
        layers += [convolution(expanded, expanded, kernel, stride, groups=expanded).append(act())]
        layers += [SqueezeExcite(expanded, rounded(expanded // 4))] if excite else []
        self.block = nn.Sequential(*layers, convolution(expanded, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """The map after the block."""
        y: Tensor = self.block(x)
        return x + y if self.shortcut else y


class MobileNetV3(Compact):
    """The small network of Howard et al. (2019), or the large one."""

    def __init__(self, *, large: bool = False, dropout: float = 0.2, **asked: Unpack[Asked]) -> None:
        sizes, stages = Sizes(**asked), _LARGE if large else _SMALL
        first, *others = sizes.strides(2, *(stage.stride for stage in stages))
        inputs, hidden = sizes.wide(16), sizes.wide(1280 if large else 1024)
        features: list[nn.Module] = [convolution(sizes.channels, inputs, stride=first).append(nn.Hardswish())]
        for stage, stride in zip(stages, others, strict=True):
            features += _blocks(stage, inputs, stride, sizes)
            inputs = sizes.wide(stage.outputs)
        last = convolution(inputs, 6 * inputs, 1).append(nn.Hardswish())
        wide = (nn.Linear(6 * inputs, hidden), nn.Hardswish())
        super().__init__(
            sizes,
            epsilon=1e-3,
            features=nn.Sequential(*features, last),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(*wide, dropout_of(dropout), nn.Linear(hidden, sizes.outputs)),
        )


def _blocks(stage: _Stage, inputs: int, stride: int, sizes: Sizes) -> list[Bottleneck]:
    """A stage's blocks: its first ones, or more like its last."""
    outputs = sizes.wide(stage.outputs)
    wide = chain(stage.expanded, repeat(stage.expanded[-1]))
    return [
        Bottleneck(
            outputs if block else inputs,
            outputs,
            sizes.wide(expanded),
            stage.kernel,
            1 if block else stride,
            excite=stage.excite,
            swish=stage.swish,
        )
        for block, expanded in enumerate(islice(wide, repeated(len(stage.expanded), sizes.depth)))
    ]


FAMILY = MobileNetV3
