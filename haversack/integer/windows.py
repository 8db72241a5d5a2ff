"""Windows of convolutions and pools over channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from haversack.integer import Array

Pair = tuple[int, int]
# Before and behind, for height and width.
Sides = tuple[Pair, Pair]


@dataclass(frozen=True)
class Window:
    """Kernel, stride and dilation of height and width."""

    kernel: Pair
    stride: Pair
    dilation: Pair = (1, 1)

    @property
    def reach(self) -> Pair:
        """How much of height and width one window spans."""
        height, width = ((k - 1) * rate + 1 for k, rate in zip(self.kernel, self.dilation, strict=True))
        return height, width

    def same(self, sizes: tuple[int, ...]) -> Sides:
        """How much TensorFlow's SAME adds around a map of these sizes; the odd one goes behind."""
        height, width = (
            max((-(-size // step) - 1) * step + reach - size, 0)
            for size, reach, step in zip(sizes, self.reach, self.stride, strict=True)
        )
        return (height // 2, height - height // 2), (width // 2, width - width // 2)

    def sides(self, padding: str, sizes: tuple[int, ...]) -> Sides:
        """How much the padding of this name adds."""
        return self.same(sizes) if padding == "SAME" else ((0, 0), (0, 0))


def padded(x: Array, sides: Sides, fill: float = 0) -> Array:
    """Maps with a border."""
    return np.pad(x, [(0, 0), *sides, (0, 0)], constant_values=fill) if any(map(any, sides)) else x


def taps(x: Array, window: Window) -> Iterator[tuple[int, int, Array]]:
    """Row, column and what `x` holds under each element of a window at all its places."""
    height, width = window.reach
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    for row, column in np.ndindex(*window.kernel):
        top, left = row * window.dilation[0], column * window.dilation[1]
        yield row, column, x[:, top : top + rows : window.stride[0], left : left + columns : window.stride[1]]


def patches(x: Array, window: Window) -> Array:
    """What lies under a window at all its places: (rows, height, width, kernel height, kernel width, channels)."""
    under = [tap for _, _, tap in taps(x, window)]
    return np.stack(under, axis=3).reshape(*under[0].shape[:3], *window.kernel, x.shape[3])
