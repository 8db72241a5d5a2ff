"""Quantized: where the inference graph gets grids, and the graph with explicit quantize/dequantize pairs.

The pairs are PT2E's own (`torch.ops.quantized_decomposed`), so the result runs in torch, and writers read nothing else.
Operations that only move values (slice, pad, reshape...) stand between the pairs and carry integers. Those that pick
values (max pool, nearest upsampling) read and write one and the same grid, which runtimes compute on integers.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only

from haversack.errors import RecipeError
from haversack.graph.fold import fold
from haversack.graph.merge import merge
from haversack.graph.trace import trace
from haversack.grid import Grid
from haversack.model import Model

aten = torch.ops.aten
pairs = torch.ops.quantized_decomposed

_LAYERS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, aten.linear.default}
_TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
_OF_TWO = {aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor}
# Results between two numbers that are known beforehand; runtimes demand that grid and no other.
_FIXED = {
    **dict.fromkeys((aten.sigmoid.default, aten.hardsigmoid.default, aten.softmax.int), (0.0, 1.0)),
    aten.tanh.default: (-1.0, 1.0),
}
_OF_ONE = {
    *(aten.avg_pool1d.default, aten.avg_pool2d.default, aten.mean.dim),
    *(aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default),
    *(aten.leaky_relu.default, aten.hardswish.default, *_FIXED),
}
_COMPUTES = {*_LAYERS, *_TRANSPOSED, *_OF_TWO, *_OF_ONE, aten.cat.default}
_PICKS = {
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.amax.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec),
}
_WINDOWS = {aten.avg_pool1d.default, aten.avg_pool2d.default}
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_MOVES = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int, aten.expand.default),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.slice.Tensor, aten.select.int, *_PADS, *_SPLITS),
}
# Where each activation that clamps has its lower bound, and what bounds it when that is left out.
_CLAMPS: dict[Any, float | None] = {
    aten.relu.default: 0.0,
    aten.relu6.default: 0.0,
    aten.clamp.default: None,
    aten.clamp_min.default: None,
    aten.hardtanh.default: -1.0,
}


def inference(model: Model) -> fx.GraphModule:
    """The float graph that grids are named after: folded, merged, and with clamping activations before max pools.

    A maximum of clamped values is the clamped maximum, and only next to a layer does a clamp cost nothing.
    """
    network = merge(fold(trace(model.module, model.example)))
    for node in list(network.graph.nodes):
        if node.target in _CLAMPS:
            _move_before_picks(node)
    network.recompile()
    return network


def lower(model: Model) -> fx.GraphModule:
    """The graph that a model's files are written from; where the model has grids, with pairs."""
    network = inference(model)
    return insert(network, model.grids) if model.grids else network


def output_step(lowered: fx.GraphModule) -> float | None:
    """The step of the grid that the graph's output lies on; None where it is float."""
    output = lowered.graph.output_node().args[0]
    if isinstance(output, fx.Node) and output.target is pairs.dequantize_per_tensor.default:
        return cast("float", output.args[1])
    return None


def points(network: fx.GraphModule) -> tuple[str, ...]:
    """The names of the values that need a grid: what integer operations read and write, after the activation."""
    found: dict[str, None] = {}
    for node in integer_operations(network):
        for value in (*_read(node), _after_activation(node)):
            found[_source(value).name] = None
    return tuple(found)


def integer_operations(network: fx.GraphModule) -> Iterator[fx.Node]:
    """The operations that runtimes compute on integers; those that only move or pick them are not among them."""
    return (node for node in network.graph.nodes if _has_integer_form(node))


def fixed_ranges(network: fx.GraphModule) -> dict[str, tuple[float, float]]:
    """The values whose grid TFLite's specification settles, with the numbers between which they lie."""
    return {node.name: _FIXED[node.target] for node in network.graph.nodes if node.target in _FIXED}


def sharing(network: fx.GraphModule) -> tuple[tuple[str, ...], ...]:
    """Groups of values that must lie on one grid: what a concatenation reads and what it writes."""
    groups: list[dict[str, None]] = []
    fixed = fixed_ranges(network)
    for node in network.graph.find_nodes(op="call_function", target=aten.cat.default):
        if _has_integer_form(node):
            names = dict.fromkeys(_source(value).name for value in (*_read(node), _after_activation(node)))
            names = {name: None for name in names if name not in fixed}
            for met in [group for group in groups if group.keys() & names.keys()]:
                groups.remove(met)
                names = met | names
            groups.append(names)
    return tuple(tuple(group) for group in groups)


def layers(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Each convolution or linear node that has an integer form, with the name of its weight."""
    for node in network.graph.nodes:
        if node.target in _LAYERS and _has_integer_form(node):
            yield node, str(node.args[1].target)


def transposed_layers(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Each transposed convolution that has an integer form, with the name of its weight, whose axis 1 is the output."""
    for node in network.graph.nodes:
        if node.target in _TRANSPOSED and _has_integer_form(node):
            yield node, str(node.args[1].target)


def read_by(layer: fx.Node) -> str:
    """The name of the value whose grid the layer's inputs lie on."""
    return _source(_read(layer)[0]).name


def left_float(network: fx.GraphModule) -> tuple[str, ...]:
    """The operations on real numbers that stay in float32, one entry each."""
    integer = {*_PICKS, *_MOVES, operator.getitem}
    return tuple(
        str(node.target)
        for node in network.graph.nodes
        if node.op == "call_function" and _is_real(node)
        if not (node.target in integer or _clamps_at_zero(node) or _has_integer_form(node))
    )


def tensor_of(network: fx.GraphModule, name: str) -> Tensor:
    """The weight or constant called `name`."""
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(owner), leaf)
    return tensor


def insert(network: fx.GraphModule, grids: Mapping[str, Grid]) -> fx.GraphModule:
    """A copy of the inference graph in which every value and weight in `grids` is rounded to its grid.

    Raises RecipeError when `grids` names a value or weight that the graph does not have.
    """
    network = copy.deepcopy(network)
    missing = grids.keys() - {str(name) for node in network.graph.nodes for name in (node.name, node.target)}
    if missing:
        raise RecipeError(f"the network has no value called {', '.join(sorted(missing))}.", mend="quantize it again.")
    tensors = {str(n.target): tensor_of(network, str(n.target)) for n in network.graph.find_nodes(op="get_attr")}
    insertion = _Insertion(network.graph, grids, tensors)
    for node in list(network.graph.nodes):
        insertion.visit(node)
    for node in reversed(network.graph.nodes):
        if not node.users and node.op in ("get_attr", "call_function"):
            network.graph.erase_node(node)
    used = {node.target: tensors[str(node.target)] for node in network.graph.find_nodes(op="get_attr")}
    return fx.GraphModule(used, network.graph, "Quantized")


class _Insertion:
    """Rewrites one graph in place, in order."""

    def __init__(self, graph: fx.Graph, grids: Mapping[str, Grid], tensors: dict[str, Tensor]) -> None:
        self.graph, self.grids, self.tensors = graph, grids, tensors
        # A dequantized value, with the integers behind it and their grid.
        self.integers: dict[fx.Node, tuple[fx.Node, Grid]] = {}

    def visit(self, node: fx.Node) -> None:
        """Rounds what this node computes, moves it to the integers, or rounds its weights."""
        read = self.integers.get(cast("fx.Node", node.args[0])) if node.args and _is_node(node.args[0]) else None
        if read and _moves(node):
            self._move(node, *read)
        elif read and _keeps_grid(node):
            self._pair(node, read[1])
        elif node.op in ("call_function", "placeholder") and node.name in self.grids:
            self._pair(node, self.grids[node.name])
        if node.target in _LAYERS | _TRANSPOSED and _weight(node) in self.grids:
            self._layer(node, read[1] if read else None)

    def _pair(self, node: fx.Node, grid: Grid) -> None:
        readers = list(node.users)
        with self.graph.inserting_after(node):
            integers = self._call(pairs.quantize_per_tensor.default, (node, *_settings(grid)), node, grid.dtype)
        self._dequantize(integers, grid, node, readers)

    def _dequantize(self, integers: fx.Node, grid: Grid, like: fx.Node, readers: list[fx.Node]) -> None:
        with self.graph.inserting_after(integers):
            real = self._call(pairs.dequantize_per_tensor.default, (integers, *_settings(grid)), like, torch.float32)
        self.integers[real] = (integers, grid)
        for reader in readers:
            reader.replace_input_with(like, real)

    def _move(self, node: fx.Node, integers: fx.Node, grid: Grid) -> None:
        arguments = [integers, *node.args[1:]]
        if node.target in _PADS:
            arguments[2:] = _padded_with_zero_point(node, grid)
        readers = list(node.users)
        with self.graph.inserting_before(node):
            moved = self._call(node.target, tuple(arguments), node, grid.dtype, node.kwargs)
        if node.target in _SPLITS:
            # Several results: each becomes real again where it is taken out.
            self.integers[node] = (moved, grid)
        else:
            self._dequantize(moved, grid, node, readers)

    def _layer(self, node: fx.Node, inputs: Grid | None) -> None:
        grid = self.grids[_weight(node)]
        arguments = list(node.args)
        arguments[1] = self._constant(node, _weight(node), grid)
        bias = node.args[2] if len(node.args) > 2 else None
        if isinstance(bias, fx.Node) and bias.op == "get_attr" and inputs is not None and _adds_bias_inside(node):
            arguments[2] = self._constant(node, str(bias.target), _bias_grid(inputs, grid))
        node.args = tuple(arguments)

    def _constant(self, node: fx.Node, name: str, grid: Grid) -> fx.Node:
        """The integers of a weight or bias, dequantized in the graph.

        A weight whose grid has several steps a channel (groups of Dettmers 2022) lies in rows of one group each.
        """
        whole = self.tensors[name]
        grouped = grid.axis == 0 and len(grid.scale) != len(whole)
        real = whole.reshape(len(grid.scale), -1) if grouped else whole
        parts = {
            "integers": grid.quantize(real).to(grid.dtype),
            "scale": torch.tensor(grid.scale),
            "zero_point": torch.tensor(grid.zero_point, dtype=torch.int64),
        }
        with self.graph.inserting_before(node):
            integers, scale, zero = (self._get(f"{name}_{part}_{node.name}", tensor) for part, tensor in parts.items())
            arguments = (integers, scale, zero, grid.axis, grid.qmin, grid.qmax, grid.dtype)
            weight = self._call(pairs.dequantize_per_channel.default, arguments, integers, torch.float32)
            if not grouped:
                return weight
            joined = self._call(aten.reshape.default, (weight, list(whole.shape)), weight, torch.float32)
            joined.meta["val"] = whole.to("meta")
            return joined

    def _get(self, name: str, tensor: Tensor) -> fx.Node:
        self.tensors[name] = tensor
        node = self.graph.create_node("get_attr", name)  # its tensor joins the module at the end
        node.meta["val"] = tensor.to("meta")
        return node

    def _call(
        self,
        target: Any,  # noqa: ANN401 - an operation of torch
        arguments: tuple[Any, ...],
        like: fx.Node,
        dtype: torch.dtype,
        options: Any = None,  # noqa: ANN401
    ) -> fx.Node:
        node = self.graph.call_function(target, arguments, dict(options or {}))
        node.meta = {**like.meta, "val": tree_map_only(Tensor, lambda each: each.to(dtype), like.meta["val"])}
        return node


def _move_before_picks(clamp: fx.Node) -> None:
    """Swaps a clamp with the max pools before it that nobody else reads."""
    pick = clamp.args[0]
    while isinstance(pick, fx.Node) and pick.target in _PICKS and len(pick.users) == 1:
        value = cast("fx.Node", pick.args[0])
        clamp.replace_all_uses_with(pick)
        clamp.replace_input_with(pick, value)
        pick.replace_input_with(value, clamp)
        pick.prepend(clamp)
        clamp.meta = {**clamp.meta, "val": value.meta["val"]}
        pick = value


def _has_integer_form(node: fx.Node) -> bool:
    """Whether runtimes compute the operation on integers: real values in and out, weights that are constant."""
    if node.target not in _COMPUTES or not _is_real(node):
        return False
    if node.target in _LAYERS | _TRANSPOSED and not _is_constant(node.args[1]):
        return False
    if node.target in _TRANSPOSED and any(extent != 1 for extent in _groups_and_dilations(node)):
        return False
    if node.target in _OF_TWO and (node.kwargs or not all(_is_node(each) for each in node.args)):
        return False
    return all(_is_real(value) and not _is_constant(_source(value)) for value in _read(node))


def _groups_and_dilations(transposed: fx.Node) -> list[int]:
    """What TFLite's TRANSPOSE_CONV knows only as 1."""
    extents: list[int] = []
    for extent in transposed.args[6:8]:
        extents += cast("list[int]", extent if isinstance(extent, list | tuple) else [extent])
    return extents


def _is_node(argument: object) -> bool:
    return isinstance(argument, fx.Node)


def _is_constant(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _is_real(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == torch.float32


def _read(node: fx.Node) -> list[fx.Node]:
    """The values that an integer operation reads, weights left out."""
    if node.target is aten.cat.default:
        return list(cast("list[fx.Node]", node.args[0]))
    return list(cast("list[fx.Node]", node.args[: 2 if node.target in _OF_TWO else 1]))


def _after_activation(node: fx.Node) -> fx.Node:
    """The value that this operation's result becomes for its readers: after the clamping activation, if there is one.

    Such a clamp vanishes into the rounding of its result, whose grid begins at zero.
    """
    reader = next(iter(node.users), None)
    if _keeps_grid(node):
        return node
    return reader if reader is not None and len(node.users) == 1 and _clamps_at_zero(reader) else node


def _clamps_at_zero(node: fx.Node) -> bool:
    if node.target not in _CLAMPS:
        return False
    low = node.args[1] if len(node.args) > 1 else _CLAMPS[node.target]
    return isinstance(low, int | float) and low == 0


def _source(value: fx.Node) -> fx.Node:
    """Where the integers of a value are made: behind all operations that only move or pick them."""
    while _moves(value) or _keeps_grid(value):
        value = cast("fx.Node", value.args[0])
    return value


def _moves(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return cast("fx.Node", node.args[0]).target in _SPLITS
    return node.target in _MOVES


def _keeps_grid(node: fx.Node) -> bool:
    """Whether results lie on the grid of what is read: picked values, and averages of windows (TFLite demands it).

    An average of the whole map is a mean, which may have a grid of its own.
    """
    if node.target not in _WINDOWS:
        return node.target in _PICKS
    sizes = cast("fx.Node", node.args[0]).meta["val"].shape[2:]
    window = list(cast("list[int]", node.args[1]))
    return (window * len(sizes))[: len(sizes)] != list(sizes)


def _weight(layer: fx.Node) -> str:
    weight = layer.args[1]
    return str(weight.target) if isinstance(weight, fx.Node) and weight.op == "get_attr" else ""


def _adds_bias_inside(node: fx.Node) -> bool:
    """Whether runtimes add the bias to the 32-bit sums: in all but linear layers on more than two dimensions."""
    return node.target is not aten.linear.default or len(node.meta["val"].shape) == 2


def _settings(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    return grid.scale[0], grid.zero_point[0], grid.qmin, grid.qmax, grid.dtype


def _bias_grid(inputs: Grid, weights: Grid) -> Grid:
    """32-bit integers in steps of input step x weight step: the unit of the sums (Jacob et al. 2018, section 2.4)."""
    step = torch.tensor(weights.scale) * torch.tensor(inputs.scale)
    return Grid(32, True, tuple(step.tolist()), (0,) * len(weights.scale), 0)


def _padded_with_zero_point(node: fx.Node, grid: Grid) -> list[Any]:
    mode = node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
    if mode != "constant":
        return list(node.args[2:])
    value = node.args[-1] if isinstance(node.args[-1], float | int) else 0.0
    integer = int(grid.quantize(torch.tensor(float(value))))
    return ["constant", integer] if node.target is aten.pad.default else [integer]
