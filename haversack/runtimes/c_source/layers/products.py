"""Layers that multiply by weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from haversack.graph.memory import Overlap
from haversack.integer import Value
from haversack.integer.parameters import Products, WindowedProducts
from haversack.runtimes.c_source.constants import Entry
from haversack.runtimes.c_source.layers.call import Call, Layer
from haversack.runtimes.c_source.layers.storage import BYTE
from haversack.runtimes.c_source.layers.weights import LayerWeights
from haversack.runtimes.c_source.layers.windows import maps, pair

_WORD = 4
_PLANE_WORDS = 256
"""Rows of a channel's map that a depthwise convolution spreads at a time have so many words, if they can."""
_PIXELS = 4
"""Pixels that a convolution reads before it writes their results."""
_PAIRS = 8
"""Words that four depths of four pixels take."""


def convolution(layer: Layer, by: WindowedProducts) -> Iterator[Call]:
    """A convolution of any kind."""
    kind = layer.operation.kind
    writer = {"CONV_2D": _dense, "DEPTHWISE_CONV_2D": _depthwise, "TRANSPOSE_CONV": _transposed}[kind]
    yield writer(layer, by)


def _long(layer: Layer, of: LayerWeights, window: Mapping[str, Entry]) -> Call:
    """A convolution of any kind whose sums have 64 bits."""
    biases = layer.constants.numbers(f"{layer.name}_biases", of.biases)
    entries = {"products": of.record(layer.constants), "biases": biases, **window}
    return layer.call("convolve_long_16", "LongConvolution", entries, layer.value("input"), flags=of.flags)


def _dense(layer: Layer, by: WindowedProducts) -> Call:
    x, weight, of = layer.value("input"), layer.value("weight"), LayerWeights.read(layer, by)
    groups = x.shape[3] // weight.shape[3]
    window = {**maps(layer, x, by), **pair("dilation", by.window.dilation), "groups": groups}
    pointwise = weight.shape[1:3] == (1, 1) and not any(map(any, by.sides))
    over = (Overlap(x.name, layer.result.name, _ahead(layer, x, by)),) if groups == 1 else ()
    return _of_patches(layer, of, {**window, "in_zero": by.input_zero, "pointwise": int(pointwise)}, over)


def _of_patches(layer: Layer, of: LayerWeights, window: Mapping[str, Entry], overwrites: tuple[Overlap, ...]) -> Call:
    """A convolution, whose patches lie in scratch memory; bytes that are no words are gathered behind them."""
    x = layer.value("input")
    size = np.dtype(x.dtype).itemsize
    words = -(-of.stored.rows.numbers.shape[1] // _WORD)
    if of.is_long:
        return _long(layer, of, {name: entry for name, entry in window.items() if name not in ("in_zero", "pointwise")})
    entries = {"products": of.record(layer.constants), **window, "words": words}
    if of.stored.form.sparse:
        kernel, scratch = "convolve_sparse", -(-x.shape[-1] * size // _WORD) + (words + 1) * _PAIRS
    else:
        depth = layer.value("weight").shape[-1]
        kernel = "convolve"
        scratch = of.stored.form.pairs + (words + words % 2) * _PAIRS + (words * size if depth % _WORD else 0)
    return layer.call(kernel, "Convolution", entries, x, scratch_words=scratch, flags=of.flags,
                      overwrites=overwrites)  # fmt: skip


def _ahead(layer: Layer, x: Value, by: WindowedProducts) -> int:
    """By how many bytes a convolution's results may be ahead of what it still reads, four pixels being read at once."""
    (top, _), (left, _) = by.sides
    (_, width, channels), (_, columns, results) = x.shape[1:], layer.result.shape[1:]
    pixels = math.prod(layer.result.shape[1:3])
    ends = np.arange(_PIXELS, pixels, _PIXELS)
    rows, places = ends // columns, ends % columns
    first = np.maximum(rows * by.window.stride[0] - top, 0)
    here = first * width + np.maximum(places * by.window.stride[1] - left, 0)
    below = np.maximum((rows + 1) * by.window.stride[0] - top, 0) * width
    numbers = int(np.max(ends * results - np.minimum(here, below) * channels, initial=0))
    return numbers * np.dtype(x.dtype).itemsize


def _depthwise(layer: Layer, by: WindowedProducts) -> Call:
    x, of, window = layer.value("input"), LayerWeights.read(layer, by), by.window
    (height, _), (reach, wide), (down, along) = window.kernel, window.reach, window.stride
    if of.is_long:
        spread = {"kernel_width": wide, **pair("dilation", (window.dilation[0], 1)), "groups": x.shape[3]}
        return _long(layer, of, {**maps(layer, x, by), **spread})
    pairs = wide // 2 + 1
    pitch = (layer.result.shape[2] - 1) * along // 2 + pairs + 1
    whole = (layer.result.shape[1] - 1) * down + reach
    rows = min(whole, max(reach + down, _PLANE_WORDS // pitch))
    small = (height, wide, reach) == (3, 3, 3) and along <= 2
    entries = {
        "products": of.record(layer.constants),
        **maps(layer, x, by),
        "kernel_width": wide,
        "dilation_height": window.dilation[0],
        "in_zero": by.input_zero,
        "rows": rows,
        "pitch": pitch,
        "is_3_by_3": int(small),
    }
    over = (Overlap(x.name, layer.result.name, exact=True),) if _stays_behind(layer, x, by, rows) else ()
    flags = of.flags | {"3_BY_3" if small else "OTHER_WINDOWS"}
    scratch = rows * pitch + 2 * height * pairs
    return layer.call("convolve_depthwise", "Depthwise", entries, x, scratch_words=scratch, flags=flags,
                      overwrites=over)  # fmt: skip


def _stays_behind(layer: Layer, x: Value, by: WindowedProducts, rows: int) -> bool:
    """Whether a depthwise convolution's results may take the places of what was read: channel by channel."""
    reach, stride, top = by.window.reach[0], by.window.stride[0], by.sides[0][0]
    height, columns = layer.result.shape[1:3]
    at_once = (rows - reach) // stride + 1
    ends = range(at_once, height, at_once)
    read = (min(max((end - 1) * stride + reach - top, 0), x.shape[1]) * x.shape[2] for end in ends)
    fits = all(end * columns <= there for end, there in zip(ends, read, strict=True))
    return x.shape[3] == layer.result.shape[3] and fits and math.prod(layer.result.shape) <= math.prod(x.shape)


def _transposed(layer: Layer, by: WindowedProducts) -> Call:
    x, of = layer.value("input"), LayerWeights.read(layer, by, folded=False)
    entries = {"products": of.record(layer.constants), **maps(layer, x, by), "in_zero": by.input_zero}
    return layer.call("convolve_transposed", "Transposed", entries, x, flags=of.flags)


def connected(layer: Layer, by: Products) -> Iterator[Call]:
    """A fully connected layer: of one row, or of several, which are the pixels of a convolution."""
    x, of = layer.value("input"), LayerWeights.read(layer, by)
    (channels, depth), size = of.stored.rows.numbers.shape, np.dtype(x.dtype).itemsize
    rows, words = math.prod(x.shape) // depth, -(-depth // _WORD)
    if rows == 1 and not of.is_long:
        entries: dict[str, Entry] = {"products": of.record(layer.constants), "channels": channels}
        if of.stored.form.sparse:
            yield layer.call("connect_sparse", "SparseConnection", entries, x, spare_words=1, flags=of.flags)
            return
        spare = (words % 2 if of.stored.form.bits != BYTE else 0) * size + (size - 1)
        entries["words"] = words
        yield layer.call("connect", "Connection", entries, x, scratch_words=of.stored.form.pairs, spare_words=spare,
                         flags=of.flags)  # fmt: skip
        return
    window: dict[str, Entry] = {
        "in_height": 1,
        "in_width": rows,
        "in_channels": depth,
        "out_height": 1,
        "out_width": rows,
        "out_channels": channels,
        **pair("kernel", (1, 1)),
        **pair("stride", (1, 1)),
        **pair("dilation", (1, 1)),
        "top": 0,
        "left": 0,
        "groups": 1,
        "in_zero": by.input_zero,
        "pointwise": 1,
    }
    over = (Overlap(x.name, layer.result.name, max(channels - depth, 0) * (rows - 1) * size),)
    yield _of_patches(layer, of, window, over)
