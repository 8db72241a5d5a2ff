"""Graphs of pieces: each a few nodes, from which a runtime writes a file; torch.export is not asked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.graph.ops import fixed_ranges, keeps_grid, layer_at, lowest, moves, points
from haversack.graph.pairs import insert
from haversack.graph.run import named_tensors
from haversack.graph.trace import computes_tensors
from haversack.grid import DYNAMIC, Grid, affine, symmetric
from haversack.runtimes.pieces import Piece, Shape

aten = torch.ops.aten
_ESTIMATED = "its time is estimated instead."
_EXTENT = 4.0
"""Values lie between minus and plus this; how large they are changes no time."""


def graph_of(piece: Piece, *, signed: bool = True, channels_last: bool = False) -> fx.GraphModule:
    """The graph of a piece for one sample, with random weights that are the same each time.

    Where its numbers are integers, its inputs and outputs are float32 around pairs, and where they are dynamic, its
    layer alone reads integers; `signed` says which activations,
    and `channels_last` maps are turned at both ends. Raises ExportError for an operation of which no graph is known,
    and for shapes that it does not give.
    """
    refusal = ExportError(f"no {piece.kind} has such shapes: {piece}.", mend=_ESTIMATED)
    try:
        module = _Graph(piece, channels_last=channels_last and _is_of_maps(piece)).module()
        fits = _shapes_fit(module)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise refusal from error
    if not fits:
        raise refusal
    if piece.numbers == "dynamic":
        return insert(module, _grids_as_they_come(module))
    bits = {"int8": 8, "int4": 4}.get(piece.numbers)
    return module if bits is None else insert(module, _grids(module, signed=signed, bits=bits))


def _shapes_fit(module: fx.GraphModule) -> bool:
    """Whether each operation gives the shape that it is said to; nothing is computed."""
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "call_function":
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            values[node] = node.target(*arguments)
            if values[node].shape != node.meta["val"].shape:
                return False
        elif node.op != "output":
            values[node] = node.meta["val"]
    return True


def with_integer_ports(lowered: fx.GraphModule) -> fx.GraphModule:
    """The graph, changed in place, with integers as inputs and outputs where they were rounded at once."""
    graph = lowered.graph
    for node in graph.find_nodes(op="placeholder"):
        reader = next(iter(node.users))
        if len(node.users) == 1 and _is_pair(reader, "quantize_per_tensor"):
            node.meta["val"] = reader.meta["val"]
            reader.replace_all_uses_with(node)
            graph.erase_node(reader)
    output = graph.output_node()
    last = cast("fx.Node", output.args[0])
    if _is_pair(last, "dequantize_per_tensor") and cast("fx.Node", last.args[0]).op != "placeholder":
        output.args = (last.args[0],)
        graph.erase_node(last)
    lowered.recompile()
    return lowered


def _is_pair(node: fx.Node, name: str) -> bool:
    return str(node.target).startswith(f"quantized_decomposed.{name}")


def _is_of_maps(piece: Piece) -> bool:
    return piece.kind not in _RESHAPES | _PERMUTES and all(len(shape) == 3 for shape in (*piece.inputs, piece.output))


class _Graph:
    """One graph in the making."""

    def __init__(self, piece: Piece, *, channels_last: bool) -> None:
        self.piece, self.turned = piece, channels_last
        self.graph, self.tensors = fx.Graph(), dict[str, Tensor]()
        self.random = torch.Generator().manual_seed(0)

    def module(self) -> fx.GraphModule:
        """The finished graph."""
        inputs = [self._input(index, shape) for index, shape in enumerate(self.piece.inputs)]
        last = self._operation(inputs)
        if self.piece.activation:
            last = self._pointwise(self.piece.activation, last)
        if self.turned:
            last = self._turn(last, (0, 2, 3, 1))
        self.graph.output(last)
        return fx.GraphModule(self.tensors, self.graph, "Piece")

    def call(self, target: Any, arguments: tuple[Any, ...], shape: Shape) -> fx.Node:  # noqa: ANN401 - torch's
        """An operation with a result of that shape, for one sample."""
        node = self.graph.call_function(target, arguments)
        node.meta["val"] = _value(shape)
        return node

    def _input(self, index: int, shape: Shape) -> fx.Node:
        node = self.graph.placeholder(f"x{index}")
        node.meta["val"] = _value((*shape[1:], shape[0]) if self.turned else shape)
        return self._turn(node, (0, 3, 1, 2)) if self.turned else node

    def _turn(self, node: fx.Node, order: Shape) -> fx.Node:
        sizes = node.meta["val"].shape
        return self.call(aten.permute.default, (node, list(order)), tuple(sizes[dim] for dim in order[1:]))

    def _operation(self, inputs: list[fx.Node]) -> fx.Node:
        piece = self.piece
        if piece.is_layer:
            return self._layer(inputs[0])
        build = _BUILDERS.get(piece.kind)
        if build is None:
            return self._pointwise(piece.kind, inputs[0])
        target, *arguments = build(piece, inputs)
        return self.call(target, tuple(arguments), piece.output)

    def _layer(self, x: fx.Node) -> fx.Node:
        piece = self.piece
        turned = piece.kind.startswith("conv_transpose")
        outputs = piece.weight[1] * piece.groups if turned else piece.weight[0]
        fan_in = math.prod(piece.weight) // max(outputs, 1)
        weight = torch.randn(piece.weight, generator=self.random) / math.sqrt(max(fan_in, 1))
        read = [x, self._tensor("weight", weight), self._tensor("bias", torch.randn(outputs, generator=self.random))]
        if piece.kind == "linear":
            return self.call(aten.linear.default, tuple(read), piece.output)
        target = getattr(aten, piece.kind)
        stride, padding, dilation = _windows(piece)
        places: tuple[Any, ...] = (stride, padding, dilation, piece.groups)
        if turned:
            places = (stride, padding, _behind(piece), piece.groups, dilation)
        overload = target.input if piece.kind in ("conv_transpose2d", "conv_transpose3d") else target.default
        return self.call(overload, (*read, *places), piece.output)

    def _tensor(self, name: str, tensor: Tensor) -> fx.Node:
        self.tensors[name] = tensor
        node = self.graph.create_node("get_attr", name)
        node.meta["val"] = tensor.to("meta")
        return node

    def _pointwise(self, kind: str, x: fx.Node) -> fx.Node:
        if kind not in _POINTWISE:
            raise ExportError(f"no file of a single {kind} can be written.", mend=_ESTIMATED)
        target = aten.softmax.int if kind == "softmax" else getattr(aten, kind).default
        return self.call(target, (x, *_POINTWISE[kind]), self.piece.output)


def _value(shape: Shape) -> Tensor:
    return torch.empty((1, *shape), device="meta")


def _windows(piece: Piece) -> tuple[list[int], list[int], list[int]]:
    """Stride, padding and dilation, spelled out a dimension."""
    dims = len(piece.weight) - 2
    return _spread(piece.stride, dims, 1), _spread(piece.padding, dims, 0), _spread(piece.dilation, dims, 1)


def _spread(numbers: Shape, dims: int, otherwise: int) -> list[int]:
    return list(numbers) * (dims if len(numbers) == 1 else 1) or [otherwise] * dims


def _behind(piece: Piece) -> list[int]:
    """A transposed convolution's output padding."""
    sizes = zip(piece.inputs[0][1:], piece.output[1:], piece.weight[2:], *_windows(piece), strict=True)
    return [new - ((old - 1) * step - 2 * pad + rate * (size - 1) + 1) for old, new, size, step, pad, rate in sizes]


def _pool(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    sizes, wanted = piece.inputs[0][1:], piece.output[1:]
    stride = _spread(piece.stride, len(sizes), 0)
    stride = [step or old // new for step, old, new in zip(stride, sizes, wanted, strict=True)]
    padding = _spread(piece.padding, len(sizes), 0)
    places = zip(sizes, wanted, stride, padding, strict=True)
    window = list(piece.weight) or [old + 2 * pad - (new - 1) * step for old, new, step, pad in places]
    return getattr(aten, piece.kind).default, inputs[0], window, stride, padding


def _reduction(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    before, after = piece.inputs[0], piece.output
    kept = len(before) == len(after)
    gone = [dim for dim, size in enumerate(before) if not kept or after[dim] != size]
    gone = gone if kept else gone[len(after) :]
    target = aten.amax.default if piece.kind == "amax" else aten.mean.dim
    return target, inputs[0], [dim + 1 for dim in gone], kept


def _padded(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    more = [new - old for old, new in zip(piece.inputs[0], piece.output, strict=True)]
    pads = [side for each in reversed(more) for side in (each // 2, each - each // 2)]
    while pads and not any(pads[-2:]):
        del pads[-2:]
    return aten.constant_pad_nd.default, inputs[0], pads, 0.0


def _sliced(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    sizes = zip(piece.inputs[0], piece.output, strict=True)
    cut = ((dim, old, new) for dim, (old, new) in enumerate(sizes, 1) if old != new)
    dim, old, new = next(cut, (1, piece.output[0], piece.output[0]))
    step = piece.stride[0] if piece.stride else 1
    return aten.slice.Tensor, inputs[0], dim, 0, min(old, new * step), step


def _permuted(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    sizes, order = list(piece.inputs[0]), []
    for size in piece.output:
        order.append(sizes.index(size))
        sizes[order[-1]] = -1
    if order == sorted(order) and len(set(piece.output)) < len(order):
        order[-2:] = order[:-3:-1]
    return aten.permute.default, inputs[0], [0, *(dim + 1 for dim in order)]


def _of_two(piece: Piece, inputs: list[fx.Node]) -> tuple[Any, ...]:
    return getattr(aten, piece.kind).Tensor, inputs[0], inputs[-1]


Builder = Callable[[Piece, list[fx.Node]], tuple[Any, ...]]
_RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"})
_PERMUTES = frozenset({"permute", "transpose"})
_BUILDERS: Mapping[str, Builder] = {
    **dict.fromkeys(("add", "sub", "mul"), _of_two),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "max_pool1d", "max_pool2d"), _pool),
    **dict.fromkeys(("mean", "amax"), _reduction),
    **dict.fromkeys(("pad", "constant_pad_nd"), _padded),
    **dict.fromkeys(_PERMUTES, _permuted),
    **dict.fromkeys(_RESHAPES, lambda piece, inputs: (aten.reshape.default, inputs[0], [1, *piece.output])),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d"),
        lambda piece, inputs: (getattr(aten, piece.kind).default, inputs[0], list(piece.output[1:])),
    ),
    **dict.fromkeys(
        ("upsample_nearest1d", "upsample_nearest2d"),
        lambda piece, inputs: (getattr(aten, piece.kind).vec, inputs[0], list(piece.output[1:]), None),
    ),
    "slice": _sliced,
    "cat": lambda _, inputs: (aten.cat.default, inputs, 1),
    "matmul": lambda _, inputs: (aten.matmul.default, *inputs),
    "scaled_dot_product_attention": lambda _, inputs: (aten.scaled_dot_product_attention.default, *inputs),
}
"""What a piece without weights calls, and on what."""
_POINTWISE: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "sigmoid", "tanh"), ()),
    **dict.fromkeys(("elu", "silu", "gelu"), ()),
    **dict.fromkeys(("clamp", "hardtanh"), (0.0, 6.0)),
    "softmax": (-1,),
}
"""The arguments of functions of one value, beside it."""


def _grids(module: fx.GraphModule, *, signed: bool, bits: int) -> dict[str, Grid]:
    """Grids for a float graph's values, and for its weights in so many bits, made up."""
    graph, fixed, tensors = module.graph, fixed_ranges(module.graph), named_tensors(module)
    operations = [node for node in graph.nodes if node.op == "call_function" and computes_tensors(node)]
    ends = [node for node in operations if not moves(node) and not keeps_grid(node)][-1:]
    names = dict.fromkeys((*(node.name for node in graph.find_nodes(op="placeholder")), *points(graph)))
    names |= dict.fromkeys(node.name for node in ends)
    clamped = {node.name for node in operations if lowest(node) == 0}
    grids = {
        name: affine(*fixed.get(name, (0.0 if name in clamped else -_EXTENT, _EXTENT)), signed=signed) for name in names
    }
    for node in operations:
        layer = layer_at(node)
        if layer is not None:
            weight = tensors[layer.weight]
            limits = weight.abs().amax([dim for dim in range(weight.dim()) if dim != layer.axis])
            grids[layer.weight] = symmetric(limits, axis=layer.axis, bits=bits)
    return grids


def _grids_as_they_come(module: fx.GraphModule) -> dict[str, Grid]:
    """Grids for the weights of linear layers; what those read is rounded as it comes."""
    layers = [layer for node in module.graph.nodes if (layer := layer_at(node)) is not None]
    tensors = named_tensors(module)
    steps = {layer.weight: symmetric(tensors[layer.weight].abs().amax(1), axis=0, bits=8) for layer in layers}
    return {**dict.fromkeys((layer.reads for layer in layers), DYNAMIC), **steps}
