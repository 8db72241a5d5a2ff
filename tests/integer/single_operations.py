"""Graphs of one random operation, one recipe a kind: what the integer reference is compared on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value

ACTIVATIONS = ("NONE", "RELU", "RELU6")
BITS = {"int8": 8, "int16": 16}


class Draft:
    """A graph of one operation in the making, on random grids."""

    def __init__(self, seed: int, dtype: str) -> None:
        self.rng, self.dtype = np.random.default_rng(seed), dtype
        self.values: dict[str, Value] = {}
        self.inputs: list[str] = []

    def size(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def pick(self, *choices: Any) -> Any:
        return choices[self.size(0, len(choices) - 1)]

    def grid(self, low: float = -7, high: float = -2) -> Grid:
        scale = float(np.float32(2.0 ** self.rng.uniform(low, high)))
        if self.dtype == "int16":
            return Grid(16, True, (scale / 256,), (0,))
        return Grid(8, True, (scale,), (self.size(-128, 127),))

    def map(self, batch: int = 1) -> tuple[int, ...]:
        return batch, self.size(3, 9), self.size(3, 9), self.size(1, 5)

    def input(self, shape: tuple[int, ...], grid: Grid | None = None) -> str:
        name = f"input{len(self.inputs)}"
        self.inputs.append(name)
        self.values[name] = Value(name, shape, self.dtype, grid or self.grid())
        return name

    def constant(self, array: Any, dtype: str = "int32", grid: Grid | None = None) -> str:
        name = f"constant{len(self.values)}"
        data = np.asarray(array, dtype)
        self.values[name] = Value(name, data.shape, dtype, grid, data)
        return name

    def weights(self, shape: tuple[int, ...], axis: int, *, per_channel: bool = True) -> str:
        count = shape[axis] if per_channel else 1
        scale = tuple(float(step) for step in np.float32(2.0 ** self.rng.uniform(-9, -5, count)))
        grid = Grid(8, True, scale, (0,) * count, axis if per_channel else None, -127, 127)
        return self.constant(self.rng.integers(-127, 128, shape), "int8", grid)

    def bias(self, count: int, data: str, weights: str) -> str:
        steps, weight_grid = self.values[data].grid, self.values[weights].grid
        assert steps is not None
        assert weight_grid is not None
        scale = tuple(float(np.float32(steps.scale[0] * step)) for step in weight_grid.scale)
        grid = Grid(32, True, scale, (0,) * len(scale), None if weight_grid.axis is None else 0)
        wide = self.dtype == "int16"
        limit = 200_000 if wide else 2000
        return self.constant(self.rng.integers(-limit, limit, count), "int64" if wide else "int32", grid)

    def finish(
        self, kind: str, inputs: list[str], shape: tuple[int, ...], grid: Grid | None = None, **options: Any
    ) -> Any:
        grid = grid or self.grid()
        count = int(options.get("num_splits", 1))
        outputs = tuple(f"output{index}" for index in range(count))
        self.values.update({name: Value(name, shape, self.dtype, grid) for name in outputs})
        operation = Operation(kind, tuple(inputs), outputs, options, "layer")
        orders = tuple(tuple(range(len(self.values[name].shape))) for name in self.inputs)
        return IntegerGraph(
            self.values, (operation,), tuple(self.inputs), outputs, orders, (tuple(range(len(shape))),) * count
        )


def _windows(
    draft: Draft, size: tuple[int, ...], filter_size: tuple[int, int], *, dilate: bool = True
) -> tuple[dict[str, Any], list[int]]:
    stride = draft.size(1, 3), draft.size(1, 3)
    dilation = (1, 1)
    padding = draft.pick("SAME", "VALID")
    if dilate and stride == (1, 1):
        dilation = tuple(
            draft.size(1, 2) if (f - 1) * 2 < s else 1 for f, s in zip(filter_size, size[1:3], strict=True)
        )
    out = [
        -(-s // t) if padding == "SAME" else (s - (f - 1) * d - 1) // t + 1
        for s, f, t, d in zip(size[1:3], filter_size, stride, dilation, strict=True)
    ]
    options: dict[str, Any] = {"stride": stride, "padding": padding}
    return (options | {"dilation": dilation} if dilate else options), out


def _output_like_sum(draft: Draft, data: str, weights: str, terms: int) -> Grid:
    """A grid that neither saturates everywhere nor rounds everything to zero."""
    x, w = draft.values[data].grid, draft.values[weights].grid
    assert x is not None
    assert w is not None
    spread = x.scale[0] * float(np.mean(w.scale)) * 60 * terms**0.5
    scale = float(np.float32(spread * 2.0 ** draft.rng.uniform(-1, 1)))
    return (
        Grid(16, True, (scale,), (0,)) if draft.dtype == "int16" else Grid(8, True, (scale,), (draft.size(-128, 127),))
    )


def convolution(draft: Draft) -> IntegerGraph:
    groups = draft.pick(1, 1, 2, 3)
    depth, filters = draft.size(1, 6), draft.size(1, 4) * groups
    filter_size = draft.size(1, 3), draft.size(1, 3)
    shape = (1, draft.size(3, 8), draft.size(3, 8), depth * groups)
    options, out = _windows(draft, shape, filter_size)
    x = draft.input(shape)
    w = draft.weights((filters, *filter_size, depth), 0, per_channel=draft.pick(True, False))
    inputs = [x, w, *([draft.bias(filters, x, w)] if draft.size(0, 3) else [])]
    grid = _output_like_sum(draft, x, w, depth * filter_size[0] * filter_size[1])
    return draft.finish("CONV_2D", inputs, (1, *out, filters), grid, activation=draft.pick(*ACTIVATIONS), **options)


def depthwise(draft: Draft) -> IntegerGraph:
    multiplier, filter_size, shape = draft.size(1, 3), (draft.size(1, 3), draft.size(1, 3)), draft.map()
    channels = shape[3] * multiplier
    options, out = _windows(draft, shape, filter_size)
    x = draft.input(shape)
    w = draft.weights((1, *filter_size, channels), 3)
    inputs = [x, w, *([draft.bias(channels, x, w)] if draft.size(0, 3) else [])]
    grid = _output_like_sum(draft, x, w, filter_size[0] * filter_size[1])
    options |= {"depth_multiplier": multiplier, "activation": draft.pick(*ACTIVATIONS)}
    return draft.finish("DEPTHWISE_CONV_2D", inputs, (1, *out, channels), grid, **options)


def transposed(draft: Draft) -> IntegerGraph:
    filters, filter_size, shape = draft.size(1, 4), (draft.size(1, 4), draft.size(1, 4)), draft.map()
    stride, padding = (draft.size(1, 3), draft.size(1, 3)), draft.pick("SAME", "VALID")
    out = [
        s * t if padding == "SAME" else (s - 1) * t + max(f, t)
        for s, t, f in zip(shape[1:3], stride, filter_size, strict=True)
    ]
    x = draft.input(shape)
    w = draft.weights((filters, *filter_size, shape[3]), 0)
    inputs = [draft.constant([1, *out, filters]), w, x, *([draft.bias(filters, x, w)] if draft.size(0, 3) else [])]
    grid = _output_like_sum(draft, x, w, shape[3] * filter_size[0] * filter_size[1])
    return draft.finish("TRANSPOSE_CONV", inputs, (1, *out, filters), grid, stride=stride, padding=padding)


def connection(draft: Draft) -> IntegerGraph:
    wide, filters = draft.size(1, 40), draft.size(1, 12)
    keep = draft.pick(True, False)
    shape = (1, draft.size(1, 3), wide) if keep else (1, wide)
    x = draft.input(shape)
    w = draft.weights((filters, wide), 0, per_channel=draft.pick(True, False))
    inputs = [x, w, *([draft.bias(filters, x, w)] if draft.size(0, 3) else [])]
    grid = _output_like_sum(draft, x, w, wide)
    options = {"activation": draft.pick(*ACTIVATIONS), "keep_num_dims": keep}
    return draft.finish("FULLY_CONNECTED", inputs, (*shape[:-1], filters), grid, **options)


def binary(kind: str, *, one_grid: bool = False) -> Callable[[Draft], IntegerGraph]:
    def recipe(draft: Draft) -> IntegerGraph:
        shape = draft.map()
        other = draft.pick(shape, shape, (1, 1, 1, shape[3]), (1, 1, 1, 1))
        grid = draft.grid(-5, -3) if one_grid else None
        x, y = draft.input(shape, grid), draft.input(other, grid)
        if kind == "MUL":
            a, b = (draft.values[name].grid for name in (x, y))
            assert a is not None
            assert b is not None
            scale = float(
                np.float32(
                    a.scale[0] * b.scale[0] * 2.0 ** draft.rng.uniform(3, 7) * (256 if draft.dtype == "int16" else 1)
                )
            )
            grid = Grid(BITS[draft.dtype], True, (scale,), (0 if draft.dtype == "int16" else draft.size(-128, 127),))
        inputs = [x, y] if draft.size(0, 1) or kind == "SUB" or other == shape else [y, x]
        options = {} if one_grid else {"activation": draft.pick(*ACTIVATIONS)}
        return draft.finish(kind, inputs, shape, grid or draft.grid(-6, -3), **options)

    return recipe


def unary(kind: str, output: Callable[[Draft, Grid], Grid | None], **options: Any) -> Callable[[Draft], IntegerGraph]:
    def recipe(draft: Draft) -> IntegerGraph:
        shape = draft.map()
        x = draft.input(shape)
        grid = draft.values[x].grid
        assert grid is not None
        return draft.finish(kind, [x], shape, output(draft, grid), **options)

    return recipe


def near(draft: Draft, grid: Grid) -> Grid:
    scale = float(np.float32(grid.scale[0] * 2.0 ** draft.rng.uniform(-1, 1)))
    return Grid(grid.bits, True, (scale,), (0 if grid.bits == 16 else draft.size(-128, 127),))


def same(_draft: Draft, grid: Grid) -> Grid:
    return grid


def fraction(draft: Draft, _grid: Grid) -> Grid:
    return Grid(16, True, (1 / 32768,), (0,)) if draft.dtype == "int16" else Grid(8, True, (1 / 256,), (-128,))


def signed_fraction(draft: Draft, _grid: Grid) -> Grid:
    return Grid(16, True, (1 / 32768,), (0,)) if draft.dtype == "int16" else Grid(8, True, (1 / 128,), (0,))


def relu6(draft: Draft) -> IntegerGraph:
    shape, scale = draft.map(), float(np.float32(2.0 ** draft.rng.uniform(-6, -3)))
    grid = (
        Grid(16, True, (scale / 64,), (0,))
        if draft.dtype == "int16"
        else Grid(8, True, (scale,), (draft.size(-128, 0),))
    )
    return draft.finish("RELU6", [draft.input(shape, grid)], shape, grid)


def leaky(draft: Draft) -> IntegerGraph:
    shape = draft.map()
    grid = draft.grid(-5, -4)
    return draft.finish(
        "LEAKY_RELU", [draft.input(shape, grid)], shape, near(draft, grid), alpha=draft.rng.uniform(0.01, 0.9)
    )


def softmax(draft: Draft) -> IntegerGraph:
    shape = draft.pick((1, draft.size(1, 30)), (1, draft.size(1, 4), draft.size(1, 9)))
    x = draft.input(shape, draft.grid(-7, 1))
    return draft.finish("SOFTMAX", [x], shape, fraction(draft, draft.grid()), beta=draft.pick(1.0, 1.0, 0.7))


def pool(kind: str) -> Callable[[Draft], IntegerGraph]:
    def recipe(draft: Draft) -> IntegerGraph:
        shape, window = draft.map(), (draft.size(1, 3), draft.size(1, 3))
        options, out = _windows(draft, shape, window, dilate=False)
        grid = draft.grid(-5, -3)
        options |= {"filter": window, "activation": draft.pick(*ACTIVATIONS)}
        return draft.finish(kind, [draft.input(shape, grid)], (1, *out, shape[3]), grid, **options)

    return recipe


def reduction(kind: str) -> Callable[[Draft], IntegerGraph]:
    def recipe(draft: Draft) -> IntegerGraph:
        shape, keep, grid = draft.map(), draft.pick(True, False), draft.grid(-5, -4)
        axes = draft.pick([1, 2], [2, 1], [-2], [3], [1, 2, 3], [-1, 1])
        gone = {axis % 4 for axis in axes}
        out = tuple(1 if axis in gone else size for axis, size in enumerate(shape) if keep or axis not in gone)
        result = grid if kind == "REDUCE_MAX" else near(draft, grid)
        return draft.finish(kind, [draft.input(shape, grid), draft.constant(axes)], out, result, keep_dims=keep)

    return recipe


def concatenation(draft: Draft) -> IntegerGraph:
    shape, grid, axis = list(draft.map()), draft.grid(), draft.pick(1, 2, 3, -1)
    parts = []
    for _ in range(draft.size(2, 4)):
        shape[axis] = draft.size(1, 5)
        parts.append(draft.input(tuple(shape), grid))
    shape[axis] = sum(draft.values[name].shape[axis] for name in parts)
    return draft.finish("CONCATENATION", parts, tuple(shape), grid, axis=axis)


def pad(kind: str) -> Callable[[Draft], IntegerGraph]:
    def recipe(draft: Draft) -> IntegerGraph:
        shape, grid = draft.map(), draft.grid()
        border = np.array([[0, 0], *draft.rng.integers(0, 3, (3, 2)).tolist()])
        inputs = [draft.input(shape, grid), draft.constant(border)]
        if kind == "PADV2":
            inputs.append(draft.constant([draft.size(-128, 127)], draft.dtype, grid))
        return draft.finish(kind, inputs, tuple(int(s + b.sum()) for s, b in zip(shape, border, strict=True)), grid)

    return recipe


def reshape(draft: Draft) -> IntegerGraph:
    shape, grid = draft.map(), draft.grid()
    out = draft.pick((1, shape[1] * shape[2], shape[3]), (1, shape[1] * shape[2] * shape[3]))
    return draft.finish("RESHAPE", [draft.input(shape, grid), draft.constant(out)], out, grid)


def transpose(draft: Draft) -> IntegerGraph:
    shape, grid = draft.map(), draft.grid()
    order = [0, *(int(axis) + 1 for axis in draft.rng.permutation(3))]
    return draft.finish(
        "TRANSPOSE", [draft.input(shape, grid), draft.constant(order)], tuple(shape[axis] for axis in order), grid
    )


def strided_slice(draft: Draft) -> IntegerGraph:
    shape, grid = draft.map(), draft.grid()
    begin = [0, *(draft.size(0, 1) for _ in range(3))]
    begin[3] = 0
    end = [1, *(draft.size(2, size) for size in shape[1:3]), shape[3]]
    strides = [1, draft.size(1, 2), draft.size(1, 2), 1]
    begin_mask, end_mask = draft.pick(0, 9, 2), draft.pick(0, 9, 4)
    begin_read = [0 if begin_mask >> axis & 1 else start for axis, start in enumerate(begin)]
    end_read = [shape[axis] if end_mask >> axis & 1 else stop for axis, stop in enumerate(end)]
    out = tuple(-(-(e - b) // s) for b, e, s in zip(begin_read, end_read, strides, strict=True))
    inputs = [draft.input(shape, grid), *(draft.constant(each) for each in (begin, end, strides))]
    return draft.finish("STRIDED_SLICE", inputs, out, grid, begin_mask=begin_mask, end_mask=end_mask)


def split(draft: Draft) -> IntegerGraph:
    count, axis, grid = draft.size(2, 3), draft.size(1, 3), draft.grid()
    part = list(draft.map())
    whole = [size * count if index == axis else size for index, size in enumerate(part)]
    inputs = [draft.constant(axis), draft.input(tuple(whole), grid)]
    return draft.finish("SPLIT", inputs, tuple(part), grid, num_splits=count)


def resize(draft: Draft) -> IntegerGraph:
    shape, grid = draft.map(), draft.grid()
    size = [draft.size(1, 12), draft.size(1, 12)]
    inputs = [draft.input(shape, grid), draft.constant(size)]
    out = (1, *size, shape[3])
    return draft.finish("RESIZE_NEAREST_NEIGHBOR", inputs, out, grid, half_pixel_centers=draft.pick(True, False))


def gather(draft: Draft) -> IntegerGraph:
    grid, shape, width = draft.grid(), (1, draft.size(1, 7)), draft.size(1, 5)
    info = np.iinfo(draft.dtype)
    table = draft.constant(
        draft.rng.integers(info.min + 1, info.max + 1, (draft.size(1, 40), width)), draft.dtype, grid
    )
    rows = draft.input(shape)
    draft.values[rows] = Value(rows, shape, "int32")
    return draft.finish("GATHER", [table, rows], (*shape, width), grid)


def hard_swish(draft: Draft) -> IntegerGraph:
    shape, grid = draft.map(), draft.grid(-7, -3)
    return draft.finish("HARD_SWISH", [draft.input(shape, grid)], shape, near(draft, grid))


RECIPES: dict[str, Callable[[Draft], IntegerGraph]] = {
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": depthwise,
    "TRANSPOSE_CONV": transposed,
    "FULLY_CONNECTED": connection,
    "ADD": binary("ADD"),
    "SUB": binary("SUB"),
    "MUL": binary("MUL"),
    "MAXIMUM": binary("MAXIMUM", one_grid=True),
    "MINIMUM": binary("MINIMUM", one_grid=True),
    "RELU": unary("RELU", near),
    "RELU_N1_TO_1": unary("RELU_N1_TO_1", near),
    "RELU6": relu6,
    "LEAKY_RELU": leaky,
    "HARD_SWISH": hard_swish,
    "LOGISTIC": unary("LOGISTIC", fraction),
    "TANH": unary("TANH", signed_fraction),
    "SOFTMAX": softmax,
    "QUANTIZE": unary("QUANTIZE", near),
    "MAX_POOL_2D": pool("MAX_POOL_2D"),
    "AVERAGE_POOL_2D": pool("AVERAGE_POOL_2D"),
    "MEAN": reduction("MEAN"),
    "REDUCE_MAX": reduction("REDUCE_MAX"),
    "CONCATENATION": concatenation,
    "GATHER": gather,
    "PAD": pad("PAD"),
    "PADV2": pad("PADV2"),
    "RESHAPE": reshape,
    "TRANSPOSE": transpose,
    "STRIDED_SLICE": strided_slice,
    "SPLIT": split,
    "RESIZE_NEAREST_NEIGHBOR": resize,
}


def graph_of(kind: str, dtype: str, seed: int) -> IntegerGraph:
    """A random graph of one operation."""
    return RECIPES[kind](Draft(seed, dtype))


def rows_for(graph: IntegerGraph, rows: int, seed: int) -> list[np.ndarray]:
    """Random integers for a graph's inputs, over all of their type; whole numbers are places in what is looked up."""
    rng = np.random.default_rng(seed)
    arrays = []
    for name in graph.inputs:
        value = graph.values[name]
        info = np.iinfo(value.dtype)
        low, high = info.min, info.max
        if value.dtype == "int32":
            low, high = (
                0,
                min(graph.values[each.inputs[0]].shape[0] for each in graph.operations if name in each.inputs) - 1,
            )
        arrays.append(rng.integers(low, high + 1, (rows, *value.shape[1:]), dtype=value.dtype))
    return arrays
