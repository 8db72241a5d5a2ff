"""Operations: which of them compute, pick or move values, compute on integers, and want grids for what they read.

Those that only move values (slice, pad, reshape...) stand between the pairs and carry integers. Those that pick values
(max pool, nearest upsampling) read and write one and the same grid, which runtimes compute on integers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.trace import arguments_of

aten = torch.ops.aten

LAYERS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, aten.linear.default}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
OF_TWO = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor}
# Results between two numbers that are known beforehand; runtimes demand that grid and no other.
FIXED = {
    **dict.fromkeys((aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int), (0.0, 1.0)),
    aten.tanh.default: (-1.0, 1.0),
}
_OF_ONE = {
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.mean.dim),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    *(aten.leaky_relu.default, aten.hardswish.default, *FIXED),
}
COMPUTES = {*LAYERS, *TRANSPOSED, *OF_TWO, *_OF_ONE, aten.cat.default}
PICKS = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.amax.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec),
}
_WINDOWS = {aten.avg_pool1d.default, aten.avg_pool2d.default}
SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}
PADS = {aten.pad.default, aten.constant_pad_nd.default}
MOVES = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.expand.default),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.slice.Tensor, aten.select.int, *PADS, *SPLITS),
}
# Where each activation that clamps has its lower bound, and what bounds it when that is left out.
CLAMPS: dict[Any, float | None] = {
    aten.relu.default: 0.0,
    aten.relu6.default: 0.0,
    aten.clamp.default: None,
    aten.clamp_min.default: None,
    aten.hardtanh.default: -1.0,
}


def moves(node: fx.Node) -> bool:
    """Whether results are values of what is read, moved: the results of a split are, one by one."""
    if node.target is operator.getitem:
        return cast("fx.Node", node.args[0]).target in SPLITS
    return node.target in MOVES


def keeps_grid(node: fx.Node) -> bool:
    """Whether results lie on the grid of what is read: picked values, and averages of windows (TFLite demands it).

    An average of the whole map is a mean, which may have a grid of its own.
    """
    if node.target not in _WINDOWS:
        return node.target in PICKS
    sizes = cast("fx.Node", node.args[0]).meta["val"].shape[2:]
    window = list(cast("list[int]", node.args[1]))
    return (window * len(sizes))[: len(sizes)] != list(sizes)


def points(graph: fx.Graph) -> tuple[str, ...]:
    """The names of the values that need a grid: what integer operations read and write, after the activation."""
    found: dict[str, None] = {}
    for node in integer_operations(graph):
        for value in (*_read(node), _after_activation(node)):
            found[_source(value).name] = None
    return tuple(found)


def integer_operations(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations that runtimes compute on integers; those that only move or pick them are not among them."""
    return (node for node in graph.nodes if _has_integer_form(node))


def fixed_ranges(graph: fx.Graph) -> dict[str, tuple[float, float]]:
    """The values whose grid TFLite's specification settles, with the numbers between which they lie."""
    return {node.name: FIXED[node.target] for node in graph.nodes if node.target in FIXED}


def sharing(graph: fx.Graph) -> tuple[tuple[str, ...], ...]:
    """Groups of values that must lie on one grid: what a concatenation reads and what it writes."""
    groups: list[dict[str, None]] = []
    fixed = fixed_ranges(graph)
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        if _has_integer_form(node):
            names = dict.fromkeys(_source(value).name for value in (*_read(node), _after_activation(node)))
            names = {name: None for name in names if name not in fixed}
            for met in [group for group in groups if group.keys() & names.keys()]:
                groups.remove(met)
                names = met | names
            groups.append(names)
    return tuple(tuple(group) for group in groups)


@dataclass(frozen=True, eq=False)
class FoldedLayer:
    """A convolution or linear layer of the folded graph, and the names of its weight and bias ('' without one)."""

    node: fx.Node
    weight: str
    bias: str
    inputs: fx.Node
    groups: int
    transposed: bool
    computes_bias: bool
    """Whether it has a bias that is the result of an operation, and so has no name."""

    @property
    def reads(self) -> str:
        """The name of the value whose grid the layer's inputs lie on."""
        return _source(self.inputs).name

    @property
    def axis(self) -> int:
        """The weight's dimension of output channels."""
        return int(self.transposed)


def layer_at(node: fx.Node) -> FoldedLayer | None:
    """The layer that this node is; None where it is another operation, or one whose weight is computed."""
    if node.target not in LAYERS | TRANSPOSED:
        return None
    parts = arguments_of(node)
    if not _is_constant(parts["weight"]):
        return None
    bias = parts["bias"]
    return FoldedLayer(
        node=node,
        weight=str(parts["weight"].target),
        bias=str(bias.target) if _is_constant(bias) else "",
        inputs=parts["input"],
        groups=int(parts.get("groups", 1)),
        transposed=node.target in TRANSPOSED,
        computes_bias=bias is not None and not _is_constant(bias),
    )


def layers(graph: fx.Graph) -> Iterator[FoldedLayer]:
    """The convolutions and linear layers that have an integer form, in order."""
    for node in graph.nodes:
        layer = layer_at(node) if _has_integer_form(node) else None
        if layer is not None:
            yield layer


def left_float(graph: fx.Graph) -> tuple[str, ...]:
    """The operations on real numbers that stay in float32, one entry each."""
    integer = {*PICKS, *MOVES, operator.getitem}
    return tuple(
        str(node.target)
        for node in graph.nodes
        if node.op == "call_function" and _is_real(node)
        if not (node.target in integer or _clamps_at_zero(node) or _has_integer_form(node))
    )


def integer_weight(node: fx.Node, is_constant: Callable[[object], bool]) -> fx.Node | None:
    """The weight that becomes integers where this is a layer with an integer form, in a graph folded or as traced."""
    is_layer = node.target in LAYERS | TRANSPOSED
    return cast("fx.Node", node.args[1]) if is_layer and _has_integer_form(node, is_constant) else None


def _is_constant(argument: object) -> bool:
    """Whether the folded graph holds this argument."""
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _has_integer_form(node: fx.Node, is_constant: Callable[[object], bool] = _is_constant) -> bool:
    """Whether runtimes compute the operation on integers: real values in and out, weights that are constant."""
    if node.target not in COMPUTES or not _is_real(node):
        return False
    if node.target in LAYERS | TRANSPOSED and not is_constant(node.args[1]):
        return False
    if node.target in TRANSPOSED and any(extent != 1 for extent in _groups_and_dilations(node)):
        return False
    if node.target in OF_TWO and (node.kwargs or not all(isinstance(each, fx.Node) for each in node.args)):
        return False
    return all(_is_real(value) and not is_constant(_source(value)) for value in _read(node))


def _groups_and_dilations(transposed: fx.Node) -> list[int]:
    """What TFLite's TRANSPOSE_CONV knows only as 1."""
    extents: list[int] = []
    for extent in transposed.args[6:8]:
        extents += cast("list[int]", extent if isinstance(extent, list | tuple) else [extent])
    return extents


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _read(node: fx.Node) -> list[fx.Node]:
    """The values that an integer operation reads, weights left out."""
    if node.target is aten.cat.default:
        return list(cast("list[fx.Node]", node.args[0]))
    return list(cast("list[fx.Node]", node.args[: 2 if node.target in OF_TWO else 1]))


def _after_activation(node: fx.Node) -> fx.Node:
    """The value that this operation's result becomes for its readers: after the clamping activation, if there is one.

    Such a clamp vanishes into the rounding of its result, whose grid begins at zero.
    """
    reader = next(iter(node.users), None)
    if keeps_grid(node):
        return node
    return reader if reader is not None and len(node.users) == 1 and _clamps_at_zero(reader) else node


def _clamps_at_zero(node: fx.Node) -> bool:
    if node.target not in CLAMPS:
        return False
    low = node.args[1] if len(node.args) > 1 else CLAMPS[node.target]
    return isinstance(low, int | float) and low == 0


def _source(value: fx.Node) -> fx.Node:
    """Where the integers of a value are made: behind all operations that only move or pick them."""
    while moves(value) or keeps_grid(value):
        value = cast("fx.Node", value.args[0])
    return value
