"""Pairs: the inference graph with explicit quantize/dequantize pairs, where values and weights are rounded to grids.

The pairs are PT2E's own (`torch.ops.quantized_decomposed`), so the result runs in torch. A model's files are written
from such a graph, and from nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from haversack.errors import RecipeError
from haversack.graph.ops import FoldedLayer, Trait, channels_follow_batch, keeps_grid, layer_at, moves, traits_of
from haversack.graph.run import named_tensors
from haversack.graph.trace import arguments_of
from haversack.grid import Grid, blocks, round_

aten = torch.ops.aten
pairs = torch.ops.quantized_decomposed


def insert(network: fx.GraphModule, grids: Mapping[str, Grid]) -> fx.GraphModule:
    """A copy of the inference graph in which every value and weight in `grids` is rounded to its grid.

    Tensors that are not rounded are the network's own. Raises RecipeError when `grids` names a value or weight that the
    graph does not have, or does not fit one's shape.
    """
    missing = grids.keys() - {str(name) for node in network.graph.nodes for name in (node.name, node.target)}
    if missing:
        raise RecipeError(f"the network has no value called {', '.join(sorted(missing))}.", mend="quantize it again.")
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    tensors = named_tensors(network)
    insertion = _Insertion(graph, grids, tensors)
    for node in list(graph.nodes):
        insertion.visit(node)
    for node in reversed(graph.nodes):
        if not node.users and node.op in ("get_attr", "call_function"):
            graph.erase_node(node)
    used = {node.target: tensors[str(node.target)] for node in graph.find_nodes(op="get_attr")}
    return fx.GraphModule(used, graph, "Quantized")


def _rounded(real: Tensor, scale: float, zero: int, *limits: Any) -> Tensor:  # noqa: ANN401
    low, high, dtype = limits
    integers = torch.empty_like(real, dtype=dtype)
    for some in blocks(real):
        integers[some] = round_(real[some] * (1.0 / scale)).add_(zero).clamp_(low, high)
    return integers


def _real(integers: Tensor, scale: float, zero: int, *_: Any) -> Tensor:  # noqa: ANN401
    real = torch.empty_like(integers, dtype=torch.float32)
    for some in blocks(integers):
        torch.sub(integers[some].to(torch.float32), zero, out=real[some]).mul_(scale)
    return real


def _dequantized(integers: Tensor, scales: Tensor, zeros: Tensor, axis: int, *limits: Any) -> Tensor:  # noqa: ANN401
    dequantize = pairs.dequantize_per_channel.default
    if axis:
        whole: Tensor = dequantize(integers, scales, zeros, axis, *limits)
        return whole
    real = torch.empty_like(integers, dtype=torch.float32)
    for rows in blocks(integers):
        real[rows] = dequantize(integers[rows], scales[rows], zeros[rows], axis, *limits)
    return real


IN_BLOCKS: Mapping[Any, Callable[..., Tensor]] = {
    pairs.quantize_per_tensor.default: _rounded,
    pairs.dequantize_per_tensor.default: _real,
    pairs.dequantize_per_channel.default: _dequantized,
}
"""What the pairs give, to the bit; beside that, these take next to no memory, and half the time."""


class _Insertion:
    """Rewrites one graph in place, in order."""

    def __init__(self, graph: fx.Graph, grids: Mapping[str, Grid], tensors: dict[str, Tensor]) -> None:
        self.graph, self.grids, self.tensors = graph, grids, tensors
        # A dequantized value, with the integers behind it and their grid.
        self.integers: dict[fx.Node, tuple[fx.Node, Grid]] = {}

    def visit(self, node: fx.Node) -> None:
        """Rounds what this node computes, moves it to the integers, or rounds its weights."""
        first = node.args[0] if node.args else None
        read = self.integers.get(first) if isinstance(first, fx.Node) else None
        if read and moves(node):
            self._move(node, *read)
        elif read and keeps_grid(node):
            self._pair(node, read[1])
        elif node.op in ("call_function", "placeholder") and node.name in self.grids:
            self._pair(node, self.grids[node.name])
        layer = layer_at(node)
        if layer is not None and layer.weight in self.grids:
            self._layer(layer, read[1] if read else None)

    def _pair(self, node: fx.Node, grid: Grid) -> None:
        if grid.axis is not None:
            raise _unfit(node.name, grid, "a value, which takes one step")
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
        if traits_of(node) & Trait.PAD:
            arguments[2:] = _padded_with_zero_point(node, grid)
        readers = list(node.users)
        with self.graph.inserting_before(node):
            moved = self._call(node.target, tuple(arguments), node, grid.dtype, node.kwargs)
        if traits_of(node) & Trait.SPLIT:
            # Several results: each becomes real again where it is taken out.
            self.integers[node] = (moved, grid)
        else:
            self._dequantize(moved, grid, node, readers)

    def _layer(self, layer: FoldedLayer, inputs: Grid | None) -> None:
        node, grid, whole = layer.node, self.grids[layer.weight], self.tensors[layer.weight]
        channels, steps = whole.shape[layer.axis], len(grid.scale)
        in_groups = layer.axis == 0 and steps % channels == 0 and whole.numel() % steps == 0
        if grid.axis != layer.axis or (steps != channels and not in_groups):
            raise _unfit(layer.weight, grid, f"a weight of shape {tuple(whole.shape)}")
        arguments = list(node.args)
        arguments[1] = self._constant(node, layer.weight, grid)
        if layer.bias and len(arguments) > 2 and inputs is not None and channels_follow_batch(node):
            arguments[2] = self._constant(node, layer.bias, _bias_grid(inputs, grid))
        node.args = tuple(arguments)

    def _constant(self, node: fx.Node, name: str, grid: Grid) -> fx.Node:
        """The integers of a weight or bias, dequantized in the graph.

        A weight whose grid has several steps a channel (groups of Dettmers 2022) lies in rows of one group each.
        """
        whole = self.tensors[name]
        grouped = grid.axis == 0 and len(grid.scale) != len(whole)
        real = whole.reshape(len(grid.scale), -1) if grouped else whole
        parts = {
            "integers": grid.stored(real),
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
        node.meta = {**like.meta, "val": tree_map_only(Tensor, partial(_as_type, dtype), like.meta["val"])}
        return node


def _as_type(dtype: torch.dtype, value: Tensor) -> Tensor:
    # Values without numbers take milliseconds for that, and the same ones are asked by every graph of a network.
    if value.dtype == dtype:
        return value
    known: dict[torch.dtype, Tensor] = _OTHER_TYPES.setdefault(value, {})
    if dtype not in known:
        known[dtype] = value.to(dtype)
    return known[dtype]


_OTHER_TYPES: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Values of graphs in other types, as long as the graphs live."""


def _unfit(name: str, grid: Grid, what: str) -> RecipeError:
    along = "" if grid.axis is None else f" along dimension {grid.axis}"
    said = f"a grid of {len(grid.scale)} steps{along} does not fit {what}."
    return RecipeError(said, where=name, mend="quantize the network again.")


def _settings(grid: Grid) -> tuple[float, int, int, int, torch.dtype]:
    return grid.scale[0], grid.zero_point[0], grid.qmin, grid.qmax, grid.dtype


def _bias_grid(inputs: Grid, weights: Grid) -> Grid:
    """32-bit integers in steps of input step x weight step: the unit of the sums (Jacob et al. 2018, section 2.4)."""
    step = torch.tensor(weights.scale) * torch.tensor(inputs.scale)
    return Grid(32, True, tuple(step.tolist()), (0,) * len(weights.scale), 0)


def _padded_with_zero_point(node: fx.Node, grid: Grid) -> list[Any]:
    """What a pad is told beside its value and the amounts: the integer that stands for its number."""
    told = dict(list(arguments_of(node).items())[2:])
    if told.get("mode", "constant") == "constant":
        told["value"] = int(grid.quantize(torch.tensor(float(told["value"] or 0.0))))
    return list(told.values())


def output_step(lowered: fx.GraphModule) -> float | None:
    """The step of the grid that the graph's output lies on; None where it is float."""
    output = lowered.graph.output_node().args[0]
    if isinstance(output, fx.Node) and output.target is pairs.dequantize_per_tensor.default:
        return cast("float", output.args[1])
    return None


def quantized_layers(lowered: fx.GraphModule) -> int:
    """How many layers read integers, multiply them by integers and give integers."""
    return sum(
        bool(traits_of(node) & (Trait.CONVOLUTION | Trait.LINEAR))
        and all(isinstance(each, fx.Node) and each.target in _DEQUANTIZE for each in node.args[:2])
        and _is_rounded(node)
        for node in lowered.graph.nodes
    )


_QUANTIZE = pairs.quantize_per_tensor.default
_DEQUANTIZE = {pairs.dequantize_per_tensor.default, pairs.dequantize_per_channel.default}


def _is_rounded(layer: fx.Node) -> bool:
    """Whether all that reads the layer's outputs, or those of the one activation that follows, rounds them first."""
    readers = list(layer.users)
    if len(readers) == 1 and readers[0].target is not _QUANTIZE:
        readers = list(readers[0].users)
    return bool(readers) and all(reader.target is _QUANTIZE for reader in readers)
