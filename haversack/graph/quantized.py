"""Quantized: where a folded graph gets grids, and the graph with explicit quantize/dequantize pairs.

The pairs are PT2E's own (`torch.ops.quantized_decomposed`), so the result runs in torch, and writers read nothing else.
Operations that only move values (slice, pad, reshape...) stand between the pairs and carry integers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed  # noqa: F401 - registers quantized_decomposed
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.fold import fold
from haversack.graph.trace import trace
from haversack.grid import Grid
from haversack.model import Model

aten = torch.ops.aten
pairs = torch.ops.quantized_decomposed

_LAYERS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding, aten.linear.default}
_AVERAGES = {
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_avg_pool1d.default,
    aten.mean.dim,
}
_COMPUTES = {*_LAYERS, *_AVERAGES, aten.add.Tensor, aten.mul.Tensor, aten.cat.default, aten.sigmoid.default}
# Clamping activations vanish into the rounding of their result: they share the grid with what they follow.
_FUSED = {aten.relu.default, aten.relu6.default, aten.hardtanh.default}
_SELECTS = {aten.max_pool1d.default, aten.max_pool2d.default, *_FUSED}
_MOVES = {
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int),
    *(aten.permute.default, aten.transpose.int, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default),
    *(aten.slice.Tensor, aten.select.int, aten.pad.default, aten.constant_pad_nd.default, aten.expand.default),
}


def lower(model: Model) -> fx.GraphModule:
    """The graph that a model's files are written from: folded and, where the model has grids, with pairs."""
    network = fold(trace(model.module, model.example))
    return insert(network, model.grids) if model.grids else network


def output_step(lowered: fx.GraphModule) -> float | None:
    """The step of the grid that the graph's output lies on; None where it is float."""
    output = lowered.graph.output_node().args[0]
    if isinstance(output, fx.Node) and output.target is pairs.dequantize_per_tensor.default:
        return float(output.args[1])  # type: ignore[arg-type]
    return None


def points(network: fx.GraphModule) -> tuple[str, ...]:
    """The names of the values that need a grid: what quantized operations read and write, after the activation."""
    found: dict[str, None] = {}
    for node in network.graph.nodes:
        if node.target in _COMPUTES and _is_quantizable(node):
            for value in (*_read(node), _after_activation(node)):
                if value.op != "get_attr":
                    found[_source(value).name] = None
    return tuple(found)


def layers(network: fx.GraphModule) -> Iterator[tuple[fx.Node, str]]:
    """Each convolution or linear node with the name of its weight."""
    for node in network.graph.nodes:
        if node.target in _LAYERS and isinstance(node.args[1], fx.Node) and node.args[1].op == "get_attr":
            yield node, str(node.args[1].target)


def left_float(network: fx.GraphModule) -> tuple[str, ...]:
    """The operations that stay in float32, as `name (operation)`."""
    gridded = {*_COMPUTES, *_SELECTS, *_MOVES}
    nodes = (node for node in network.graph.nodes if node.op == "call_function")
    named = ((node.name, node.target) for node in nodes if "val" in node.meta and isinstance(node.meta["val"], Tensor))
    return tuple(f"{name} ({target})" for name, target in named if target not in gridded)


def tensor_of(network: fx.GraphModule, name: str) -> Tensor:
    """The weight or constant called `name`."""
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(network.get_submodule(owner), leaf)
    return tensor


def insert(network: fx.GraphModule, grids: Mapping[str, Grid]) -> fx.GraphModule:
    """A copy of the folded graph in which every value in `grids` is rounded to its grid.

    Raises RecipeError when `grids` names a value or weight that the graph does not have.
    """
    network = copy.deepcopy(network)
    missing = grids.keys() - {str(name) for node in network.graph.nodes for name in (node.name, node.target)}
    if missing:
        raise RecipeError(f"the network has no value called {', '.join(sorted(missing))}.", mend="quantize it again.")
    tensors = {str(n.target): tensor_of(network, str(n.target)) for n in network.graph.find_nodes(op="get_attr")}
    writer = _Insertion(network.graph, grids, tensors)
    for node in list(network.graph.nodes):
        writer.visit(node)
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
        if node.target in _MOVES and node.args[0] in self.integers:
            self._move(node)
        elif node.target in _LAYERS:
            self._layer(node)
        if node.op in ("call_function", "placeholder") and node.name in self.grids:
            self._pair(node, self.grids[node.name])

    def _pair(self, node: fx.Node, grid: Grid) -> None:
        readers = list(node.users)
        settings = (grid.scale[0], grid.zero_point[0], grid.qmin, grid.qmax, grid.dtype)
        with self.graph.inserting_after(node):
            integers = self._call(pairs.quantize_per_tensor.default, (node, *settings), node, grid.dtype)
        self._dequantize(integers, grid, node, readers)

    def _dequantize(self, integers: fx.Node, grid: Grid, like: fx.Node, readers: list[fx.Node]) -> None:
        settings = (grid.scale[0], grid.zero_point[0], grid.qmin, grid.qmax, grid.dtype)
        with self.graph.inserting_after(integers):
            real = self._call(pairs.dequantize_per_tensor.default, (integers, *settings), like, torch.float32)
        self.integers[real] = (integers, grid)
        for reader in readers:
            reader.replace_input_with(like, real)

    def _move(self, node: fx.Node) -> None:
        integers, grid = self.integers[node.args[0]]  # type: ignore[index]
        arguments = list(node.args)
        arguments[0] = integers
        if node.target in (aten.pad.default, aten.constant_pad_nd.default):
            arguments[2:] = _padded_with_zero_point(node, grid)
        readers = list(node.users)
        with self.graph.inserting_before(node):
            moved = self._call(node.target, tuple(arguments), node, grid.dtype, node.kwargs)
        self._dequantize(moved, grid, node, readers)

    def _layer(self, node: fx.Node) -> None:
        weight = node.args[1]
        if not isinstance(weight, fx.Node) or weight.target not in self.grids:
            return
        grid = self.grids[str(weight.target)]
        arguments = list(node.args)
        arguments[1] = self._constant(node, str(weight.target), grid)
        bias = node.args[2] if len(node.args) > 2 else None
        read = self.integers.get(node.args[0])  # type: ignore[arg-type]
        if isinstance(bias, fx.Node) and read is not None and _adds_bias_inside(node):
            bias_grid = _bias_grid(read[1], grid)
            arguments[2] = self._constant(node, f"{bias.target}", bias_grid)
        node.args = tuple(arguments)

    def _constant(self, node: fx.Node, name: str, grid: Grid) -> fx.Node:
        """The integers of a weight or bias, dequantized in the graph."""
        parts = {
            "integers": grid.quantize(self.tensors[name]).to(grid.dtype),
            "scale": torch.tensor(grid.scale),
            "zero_point": torch.tensor(grid.zero_point, dtype=torch.int64),
        }
        with self.graph.inserting_before(node):
            integers, scale, zero = (self._get(f"{name}_{part}_{node.name}", tensor) for part, tensor in parts.items())
            arguments = (integers, scale, zero, grid.axis, grid.qmin, grid.qmax, grid.dtype)
            return self._call(pairs.dequantize_per_channel.default, arguments, integers, torch.float32)

    def _get(self, name: str, tensor: Tensor) -> fx.Node:
        self.tensors[name] = tensor
        node = self.graph.create_node("get_attr", name)  # its tensor joins the module at the end
        node.meta["val"] = tensor.to("meta")
        return node

    def _call(
        self, target: Any, arguments: tuple[Any, ...], like: fx.Node, dtype: torch.dtype, options: Any = None  # noqa: ANN401
    ) -> fx.Node:
        node = self.graph.call_function(target, arguments, dict(options or {}))
        node.meta = {**like.meta, "val": like.meta["val"].to(dtype)}
        return node


def _is_quantizable(node: fx.Node) -> bool:
    """Whether the operation has an integer form: real values, and a sum or product of two of them."""
    if not node.meta["val"].is_floating_point():
        return False
    if node.target in (aten.add.Tensor, aten.mul.Tensor):
        return all(isinstance(each, fx.Node) and each.op != "get_attr" for each in node.args) and not node.kwargs
    return True


def _read(node: fx.Node) -> list[fx.Node]:
    """The values that a quantized operation reads, weights left out."""
    if node.target is aten.cat.default:
        return list(node.args[0])  # type: ignore[arg-type]
    count = 2 if node.target in (aten.add.Tensor, aten.mul.Tensor) else 1
    return [each for each in node.args[:count] if isinstance(each, fx.Node)]


def _after_activation(node: fx.Node) -> fx.Node:
    """The value that this operation's result becomes for its readers: after the clamping activation, if there is one."""
    reader = next(iter(node.users), None)
    if len(node.users) == 1 and reader is not None and reader.target in _FUSED:
        return reader
    return node


def _source(value: fx.Node) -> fx.Node:
    """Where the integers of a value are made: behind all operations that only move them."""
    while value.target in _MOVES and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return value


def _adds_bias_inside(node: fx.Node) -> bool:
    """Whether runtimes add the bias to the 32-bit sums: everywhere but in a linear layer on more than two dimensions."""
    return node.target is not aten.linear.default or len(node.meta["val"].shape) == 2


def _bias_grid(inputs: Grid, weights: Grid) -> Grid:
    """32-bit integers in steps of input step x weight step: the unit of the sums (Jacob et al. 2018, section 2.4)."""
    step = torch.tensor(weights.scale) * torch.tensor(inputs.scale)
    return Grid(32, True, tuple(step.tolist()), (0,) * len(weights.scale), 0)


def _padded_with_zero_point(node: fx.Node, grid: Grid) -> list[Any]:
    mode = node.args[2] if node.target is aten.pad.default and len(node.args) > 2 else "constant"
    if mode != "constant":
        return list(node.args[2:])
    value = node.args[-1] if isinstance(node.args[-1], float | int) else 0.0
    integer = int(grid.quantize(torch.tensor(value or 0.0)))
    return ["constant", integer] if node.target is aten.pad.default else [integer]
