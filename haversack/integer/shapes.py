"""Shapes: what an operation makes of what it reads, and whether a graph of unknown origin holds to it.

A graph that passes `check_shapes` can be computed, and code for it stays within its arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from haversack.errors import ExportError
from haversack.integer import KINDS, IntegerGraph, Operation, Value, check
from haversack.integer.lowering import parameters
from haversack.integer.parameters import Steps
from haversack.integer.windows import Window

Shape = tuple[int, ...]
_MOST_NUMBERS, _LONGEST, _MOST_AXES = 1 << 28, 1 << 22, 6
_LARGEST_OPTION = 1 << 15


class _DoesNotFitError(Exception):
    """What an operation reads does not go together; says why."""


def check_shapes(graph: IntegerGraph) -> None:
    """Nothing, or an ExportError for the first operation whose values do not go together; `check` is part of it."""
    check(graph)
    for value in graph.values.values():
        wrong = next(_wrong(value), None)
        if wrong:
            raise ExportError(wrong, where=value.name)
    for operation in graph.operations:
        try:
            wanted = _RULES[operation.kind](_Row(graph, operation))
            shapes = [graph.values[name].shape for name in operation.outputs]
            _demand(all(shape == wanted for shape in shapes), f"it makes {wanted}, and the graph says {shapes[0]}")
            parameters(graph, operation)
        except _DoesNotFitError as error:
            raise ExportError(f"{operation.kind}: {error}.", where=operation.path) from error


def is_shape(shape: Shape) -> bool:
    """Whether a value can have this shape: so many axes and numbers, and none of them empty."""
    few = len(shape) <= _MOST_AXES and all(1 <= size <= _LONGEST for size in shape)
    return few and math.prod(shape) <= _MOST_NUMBERS


def _wrong(value: Value) -> Iterator[str]:
    """What is wrong with a value on its own."""
    if not is_shape(value.shape):
        yield f"a value of shape {value.shape[: _MOST_AXES + 1]}."
    if value.data is not None and value.data.shape != value.shape:
        yield "its numbers do not have its shape."
    grid = value.grid
    if grid is not None and grid.axis is not None and value.shape[grid.axis : grid.axis + 1] != (len(grid.scale),):
        yield f"it has {len(grid.scale)} steps, and not as many slices."


def _demand(holds: object, otherwise: str) -> None:
    if not holds:
        raise _DoesNotFitError(otherwise)


class _Row:
    """An operation with the shapes and constants that it reads, by name."""

    def __init__(self, graph: IntegerGraph, operation: Operation) -> None:
        self.graph, self.operation = graph, operation
        for option, value in operation.settings().items():
            numbers = value if isinstance(value, tuple) else (value,)
            large = any(isinstance(number, int) and abs(number) > _LARGEST_OPTION for number in numbers)
            _demand(not large, f"its {option} is {value}")
            _demand(all(isinstance(number, str) or math.isfinite(number) for number in numbers), f"its {option}")
        for name in (*operation.inputs, *operation.outputs):
            grid = graph.values[name].grid if name else None
            by_channel = name in (operation.input("weight"), operation.input("bias")) if self.has_weights else False
            single = grid is None or grid.axis is None or by_channel or operation.kind == "DEQUANTIZE"
            _demand(single, f"{name!r} has a step for each channel")

    @property
    def has_weights(self) -> bool:
        """Whether it is a layer."""
        return self.operation.kind in _LAYERS

    def value(self, name: str) -> Value:
        """What it reads under this name."""
        return self.graph.values[self.operation.input(name)]

    def shape(self, name: str = "input", rank: int | None = None) -> Shape:
        """The shape of what it reads, which must have so many axes."""
        shape = self.value(name).shape
        _demand(rank is None or len(shape) == rank, f"its {name} has {len(shape)} axes")
        return shape

    def numbers(self, name: str, count: int | None = None) -> tuple[int, ...]:
        """The plain integers of a constant, which must be so many."""
        data = np.asarray(self.value(name).data).reshape(-1)
        _demand(count is None or data.size == count, f"its {name} holds {data.size} numbers")
        _demand(data.size <= 2 * _MOST_AXES and all(abs(int(each)) <= _MOST_NUMBERS for each in data), f"its {name}")
        return tuple(int(each) for each in data)

    def pair(self, name: str) -> tuple[int, int]:
        """An option of two positive numbers."""
        height, width = self.operation.option(name)
        _demand(min(height, width) >= 1, f"its {name} is {height, width}")
        return height, width


def _layer(row: _Row, outputs: int, axis: int) -> None:
    """Demands that bias and steps fit so many output channels, which lie along this axis of the weights."""
    bias, grid = row.operation.input("bias"), row.value("weight").grid
    if bias:
        value, wide = row.graph.values[bias], row.value("input").dtype == "int16"
        _demand(value.shape == (outputs,), f"its bias has the shape {value.shape}")
        allowed = {"float32": True, "int32": not wide or row.operation.kind == "CONV_2D", "int64": wide}
        _demand(allowed[value.dtype], f"its bias is {value.dtype}")
    _demand(grid is None or grid.axis in (None, axis), "its weight's steps are not those of its outputs")


def _counts(sizes: Shape, window: Window, padding: str) -> tuple[int, ...]:
    """How many windows there are along height and width."""
    if padding == "SAME":
        return tuple(-(-size // step) for size, step in zip(sizes, window.stride, strict=True))
    _demand(all(size >= reach for size, reach in zip(sizes, window.reach, strict=True)), "its window is too large")
    return tuple(
        (size - reach) // step + 1 for size, reach, step in zip(sizes, window.reach, window.stride, strict=True)
    )


def _convolution(row: _Row) -> Shape:
    x, (outputs, height, width, depth) = row.shape(rank=4), row.shape("weight", 4)
    window = Window((height, width), row.pair("stride"), row.pair("dilation"))
    _demand(x[3] % depth == 0 and outputs % (x[3] // depth) == 0, f"{x[3]} channels, and weights for {depth}")
    _layer(row, outputs, 0)
    return (x[0], *_counts(x[1:3], window, row.operation.option("padding")), outputs)


def _depthwise(row: _Row) -> Shape:
    x, (one, height, width, outputs) = row.shape(rank=4), row.shape("weight", 4)
    window = Window((height, width), row.pair("stride"), row.pair("dilation"))
    multiplier = row.operation.option("depth_multiplier")
    _demand(one == 1 and outputs == x[3] * multiplier, f"{x[3]} channels, and weights for {outputs}")
    _layer(row, outputs, 3)
    return (x[0], *_counts(x[1:3], window, row.operation.option("padding")), outputs)


def _transposed(row: _Row) -> Shape:
    x, (outputs, height, width, inputs) = row.shape(rank=4), row.shape("weight", 4)
    made = row.numbers("shape", 4)
    window = Window((height, width), row.pair("stride"))
    _demand(inputs == x[3] and made[0] == x[0] and made[3] == outputs, f"it makes {made} of {x}")
    _demand(_counts(made[1:3], window, row.operation.option("padding")) == x[1:3], f"it makes {made} of {x}")
    _layer(row, outputs, 0)
    return made


def _connection(row: _Row) -> Shape:
    x, (outputs, inputs) = row.shape(), row.shape("weight", 2)
    _layer(row, outputs, 0)
    if row.operation.option("keep_num_dims"):
        _demand(x[-1:] == (inputs,), f"it reads {x}, and has weights for {inputs}")
        return (*x[:-1], outputs)
    _demand(math.prod(x) % inputs == 0, f"it reads {x}, and has weights for {inputs}")
    return math.prod(x) // inputs, outputs


def _pool(row: _Row) -> Shape:
    x = row.shape(rank=4)
    window = Window(row.pair("filter"), row.pair("stride"))
    return (x[0], *_counts(x[1:3], window, row.operation.option("padding")), x[3])


def _two(row: _Row) -> Shape:
    sides = [row.shape("left"), row.shape("right")]
    try:
        shape = np.broadcast_shapes(*sides)
    except ValueError:
        raise _DoesNotFitError(f"{sides[0]} and {sides[1]} do not go together") from None
    computed = [row.shape(name) for name in ("left", "right") if row.value(name).data is None]
    _demand(all(len(side) == len(shape) for side in computed), "values that are computed have different ranks")
    return shape


def _matrix_product(row: _Row) -> Shape:
    left, right = row.shape("left"), row.shape("right")
    _demand(min(len(left), len(right)) >= 2, f"{left} and {right} are no matrices")
    _demand(len(left) == len(right), f"{left} and {right} have different ranks")
    (height, depth), (rows, width) = (
        side[:-3:-1] if row.operation.option(f"adj_{name}") else side[-2:] for side, name in ((left, "x"), (right, "y"))
    )
    _demand(depth == rows, f"{left} and {right} do not go together")
    try:
        return (*np.broadcast_shapes(left[:-2], right[:-2]), height, width)
    except ValueError:
        raise _DoesNotFitError(f"{left} and {right} do not go together") from None


def _as_it_is(row: _Row) -> Shape:
    return row.shape()


def _softmax(row: _Row) -> Shape:
    _demand(row.shape(), "its input has no axis")
    _demand(row.operation.option("beta") > 0, "its beta is not positive")
    return row.shape()


def _reduction(row: _Row) -> Shape:
    x = row.shape()
    axes = {_axis(axis, x) for axis in row.numbers("axes")}
    _demand(axes, "it names no axis")
    if row.operation.option("keep_dims"):
        return tuple(1 if axis in axes else size for axis, size in enumerate(x))
    return tuple(size for axis, size in enumerate(x) if axis not in axes)


def _axis(axis: int, shape: Shape) -> int:
    _demand(-len(shape) <= axis < len(shape), f"axis {axis} of {shape}")
    return axis % len(shape)


def _joined(row: _Row) -> Shape:
    shapes = [row.graph.values[name].shape for name in row.operation.inputs]
    axis = _axis(row.operation.option("axis"), shapes[0])
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    _demand(len(rest) == 1 and len({len(shape) for shape in shapes}) == 1, f"{shapes[:4]} do not go together")
    return (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])


def _padded(row: _Row) -> Shape:
    x = row.shape()
    amounts = row.numbers("paddings", 2 * len(x))
    _demand(row.shape("paddings") == (len(x), 2) and min(amounts, default=0) >= 0, f"it pads by {amounts}")
    if row.operation.kind == "PADV2":
        _demand(math.prod(row.shape("value")) == 1, "it pads with several numbers")
    return tuple(size + sum(amounts[2 * axis : 2 * axis + 2]) for axis, size in enumerate(x))


def _reshaped(row: _Row) -> Shape:
    made = row.graph.values[row.operation.outputs[0]].shape
    wanted = row.numbers("shape", len(made))
    _demand(math.prod(made) == math.prod(row.shape()), f"{row.shape()} becomes {made}")
    _demand(all(number in (-1, size) for number, size in zip(wanted, made, strict=True)), f"{wanted} is not {made}")
    return made


def _turned(row: _Row) -> Shape:
    x = row.shape()
    order = row.numbers("permutation", len(x))
    _demand(sorted(order) == list(range(len(x))), f"{order} is no order of axes")
    return tuple(x[axis] for axis in order)


def _cut(row: _Row) -> Shape:
    x, option = row.shape(), row.operation.option
    for name in ("begin", "end", "strides"):
        row.numbers(name, len(x))
    _demand(all(row.numbers("strides")), "it takes steps of nothing")
    _demand(not option("ellipsis_mask") and not option("new_axis_mask"), "it adds axes")
    single = option("shrink_axis_mask")
    begins = row.numbers("begin")
    for axis, (begin, size) in enumerate(zip(begins, x, strict=True)):
        _demand(not single >> axis & 1 or -size <= begin < size, f"number {begin} of {size}")
    steps = parameters(row.graph, row.operation)
    counts = steps.counts if isinstance(steps, Steps) else ()
    return tuple(count for axis, count in enumerate(counts) if not single >> axis & 1)


def _part(row: _Row) -> Shape:
    x, count = row.shape(), row.operation.option("num_splits")
    axis = _axis(row.numbers("axis", 1)[0], x)
    _demand(count >= 1 and x[axis] % count == 0, f"{x[axis]} in {count} parts")
    return (*x[:axis], x[axis] // count, *x[axis + 1 :])


def _resized(row: _Row) -> Shape:
    x, size, option = row.shape(rank=4), row.numbers("size", 2), row.operation.option
    _demand(not (option("align_corners") and option("half_pixel_centers")), "it aligns corners and centres")
    return (x[0], *size, x[3])


def _gathered(row: _Row) -> Shape:
    x, option = row.shape(), row.operation.option
    _demand(x and option("axis") == 0 == option("batch_dims"), "it takes other slices than rows of all it reads")
    made = row.graph.values[row.operation.outputs[0]]
    _demand(row.value("input").grid == made.grid, "what it makes lies on another grid than what it reads")
    return (*row.graph.values[row.operation.input("indices")].shape, *x[1:])


_LAYERS: Mapping[str, Callable[[_Row], Shape]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _connection,
    "TRANSPOSE_CONV": _transposed,
}
_RULES: Mapping[str, Callable[[_Row], Shape]] = {
    **_LAYERS,
    **dict.fromkeys(("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"), _two),
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), _pool),
    **dict.fromkeys((kind for kind, row in KINDS.items() if row.curve), _as_it_is),
    **dict.fromkeys(
        ("QUANTIZE", "DEQUANTIZE", "RELU", "RELU6", "RELU_N1_TO_1", "LEAKY_RELU", "GELU", "CAST"), _as_it_is
    ),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), _reduction),
    **dict.fromkeys(("PAD", "PADV2"), _padded),
    "BATCH_MATMUL": _matrix_product,
    "CONCATENATION": _joined,
    "GATHER": _gathered,
    "RESHAPE": _reshaped,
    "RESIZE_NEAREST_NEIGHBOR": _resized,
    "SOFTMAX": _softmax,
    "SPLIT": _part,
    "STRIDED_SLICE": _cut,
    "TRANSPOSE": _turned,
}
