"""What several families are built of."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypedDict

from torch import Tensor, nn

from haversack.errors import RecipeError

_FACTORS = frozenset({"width", "depth", "expansion"})
_MOST_TIMES, _MOST = 64, 1 << 24


def check_sizes(**sizes: float) -> None:
    """Raises RecipeError, naming it, where a size is not within 0 and any network's, or not whole but counts."""
    for name, size in sizes.items():
        most = _MOST_TIMES if name in _FACTORS else _MOST
        number = isinstance(size, int | float) and not isinstance(size, bool)
        if not (number and 0 < size <= most and (name in _FACTORS or size == int(size))):
            wanted = "number" if name in _FACTORS else "whole number"
            raise RecipeError(f"{name} is {size!r}.", mend=f"give a {wanted} above zero, and at most {most:,}.")


def rounded(channels: float, multiple: int = 8) -> int:
    """The nearest multiple that is at least 0.9 of `channels`, and never none (Howard et al. 2017)."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple


def repeated(blocks: int, depth: float) -> int:
    """How many of the `blocks` a network of that depth has: one at least."""
    return max(1, round(blocks * depth))


def strides(default: Sequence[int], downsampling: int) -> list[int]:
    """The strides of a network in order, the last of which became 1 until they multiply to `downsampling`.

    Raises RecipeError where no number of them does.
    """
    left, product = list(default), 1
    for place, stride in enumerate(default):
        left[place] = stride if product * stride <= downsampling else 1
        product *= left[place]
    if product != downsampling:
        raise RecipeError(
            f"downsampling is {downsampling!r}, which strides {', '.join(map(str, default))} do not multiply to.",
            mend=f"write a power of two up to {math.prod(default)}.",
        )
    return left


class Shrunk(nn.Module):
    """The input with `pixels` x `pixels` (or `pixels` points in time) averaged into one.

    Raises RecipeError where that leaves less than `least` along a dimension: the rest of the network needs as much.
    """

    def __init__(self, pixels: int, dimensions: int = 2, least: int = 1) -> None:
        super().__init__()
        check_sizes(shrink=pixels, least=least)
        pool = nn.AvgPool2d if dimensions == 2 else nn.AvgPool1d
        self.pool = pool(pixels) if pixels > 1 else nn.Identity()
        self.least = pixels * least

    def forward(self, x: Tensor) -> Tensor:
        """The smaller input."""
        if min(x.shape[2:]) < self.least:
            raise RecipeError(
                f"an input of {' x '.join(map(str, x.shape[2:]))} is too small: this network needs {self.least}.",
                mend="set a smaller downsampling or shrink.",
            )
        shrunk: Tensor = self.pool(x)
        return shrunk


class Asked(TypedDict, total=False):
    """Sizes by name, as `zoo.Family` has them; those that nobody asks for are the family's own."""

    channels: int
    outputs: int
    width: float
    depth: float
    downsampling: int
    shrink: int


@dataclass(frozen=True)
class Sizes:
    """What size a network has; as it stands, that of a paper's network for photographs."""

    channels: int = 3
    outputs: int = 1000
    width: float = 1.0
    depth: float = 1.0
    downsampling: int = 32
    shrink: int = 1

    def __post_init__(self) -> None:
        check_sizes(channels=self.channels, outputs=self.outputs, width=self.width, depth=self.depth)

    def wide(self, channels: float) -> int:
        """So many channels at this width."""
        return rounded(channels * self.width)

    def strides(self, *default: int) -> list[int]:
        """The strides of this downsampling, in the place of the default ones."""
        return strides(default, self.downsampling)

    def strided(self, first: int, rows: Sequence[Row]) -> tuple[int, list[Row]]:
        """The stride of a first layer, and a table's rows with theirs, of this downsampling."""
        stem, *others = self.strides(first, *(stride for _, _, stride, *_ in rows))
        return stem, [(*row[:2], stride, *row[3:]) for row, stride in zip(rows, others, strict=True)]


Row = tuple[int, ...]
"""Of a table of blocks: channels, how many blocks, the stride of the first, the kernel, and what else a block takes."""


def staged(
    rows: Sequence[Row],
    block: Callable[..., nn.Module],
    inputs: int,
    sizes: Sizes,
    repeats: Callable[[int, float], int] = repeated,
) -> list[nn.Module]:
    """The blocks of a table, the first of which reads `inputs` channels."""
    built = []
    for channels, blocks, stride, kernel, *more in rows:
        outputs = sizes.wide(channels)
        for number in range(repeats(blocks, sizes.depth)):
            built.append(block(inputs, outputs, kernel, 1 if number else stride, *more))
            inputs = outputs
    return built


class Compact(nn.Sequential):
    """A network of parts that follow one another, by name, behind `shrink`; its weights are drawn anew."""

    dimensions: ClassVar[int] = 2

    def __init__(self, sizes: Sizes, *, least: int | None = None, epsilon: float = 1e-5, **parts: nn.Module) -> None:
        shrunk = Shrunk(sizes.shrink, self.dimensions, least or sizes.downsampling)
        super().__init__(OrderedDict(shrink=shrunk, **parts))
        initialise(self, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """The outputs (samples, outputs) for images (samples, channels, height, width) or signals (..., time)."""
        for part in self:
            x = part(x)
        return x


def dropout_of(share: float) -> nn.Dropout:
    """Dropout of that share of the values; RecipeError where it is no share."""
    if not (isinstance(share, int | float) and 0 <= share < 1):
        raise RecipeError(f"dropout is {share!r}.", mend="write the share to leave out, from 0 to below 1.")
    return nn.Dropout(share)


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias and batch norm, padded so that stride 1 keeps the extent; an activation is appended.

    Raises RecipeError where the kernel has no middle.
    """
    check_sizes(inputs=inputs, outputs=outputs, kernel=kernel, stride=stride, groups=groups)
    if kernel % 2 == 0:
        raise RecipeError(f"a kernel of {kernel} has no middle.", mend="give an odd one.")
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def initialise(network: nn.Module, epsilon: float = 1e-5) -> None:
    """Draws kernels for rectified inputs (He et al. 2015) and sets what batch norms add to variances, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = epsilon
