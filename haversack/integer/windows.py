"""Windows of convolutions and pools over channels-last maps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from haversack.integer import Array

Pair = tuple[int, int]


def same_padding(size: int, window: int, stride: int) -> Pair:
    """How much TensorFlow's SAME adds before and after `size`; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def extent(filter_size: Pair, dilation: Pair) -> Pair:
    """Height and width that a dilated filter spans."""
    return (filter_size[0] - 1) * dilation[0] + 1, (filter_size[1] - 1) * dilation[1] + 1


def padded(x: Array, window: Pair, stride: Pair, padding: str, fill: float = 0) -> Array:
    """`x` with the border that "SAME" adds, or as it is."""
    if padding == "VALID":
        return x
    border = [(0, 0), *(same_padding(*size) for size in zip(x.shape[1:3], window, stride, strict=True)), (0, 0)]
    return np.pad(x, border, constant_values=fill)


def taps(x: Array, filter_size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Iterator[tuple[int, int, Array]]:
    """Row, column and what `x` holds under each element of a filter at all its places."""
    height, width = extent(filter_size, dilation)
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    for row in range(filter_size[0]):
        for column in range(filter_size[1]):
            top, left = row * dilation[0], column * dilation[1]
            yield row, column, x[:, top : top + rows : stride[0], left : left + columns : stride[1]]


def patches(x: Array, filter_size: Pair, stride: Pair, dilation: Pair) -> Array:
    """What lies under a filter at all its places: (rows, height, width, filter height, filter width, channels)."""
    under = [tap for _, _, tap in taps(x, filter_size, stride, dilation)]
    return np.stack(under, axis=3).reshape(*under[0].shape[:3], *filter_size, x.shape[3])
