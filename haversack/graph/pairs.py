"""Pairs: the inference graph with explicit quantize/dequantize pairs, where values and weights are rounded to grids.

The pairs are PT2E's own (`torch.ops.quantized_decomposed`), so the result runs in torch. A model's files are written
from such a graph, and from nothing else.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
import torch.ao.quantization.fx._decomposed  # registers torch.ops.quantized_decomposed
from torch import Tensor, fx
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from haversack.errors import RecipeError
from haversack.graph.bytes import steps_at
from haversack.graph.ops import (
    FoldedLayer,
    Lookup,
    Trait,
    channels_follow_batch,
    integer_readers,
    keeps_grid,
    layer_at,
    lookup_at,
    makes_real,
    moves,
    on_grids,
    product_at,
    traits_of,
)
from haversack.graph.recurrent import ROUNDS, Recurrent, recurrent_at
from haversack.graph.run import named_tensors
from haversack.graph.trace import arguments_of
from haversack.grid import DYNAMIC, Grid, blocks, round_

aten = torch.ops.aten
pairs = torch.ops.quantized_decomposed
_LEAST_STEP = 1e-30
"""Of a value that is worked out as it comes: ONNX knows none, and zeros alone become zeros on any."""


def insert(network: fx.GraphModule, grids: Mapping[str, Grid], *, from_bytes: bool = True) -> fx.GraphModule:
    """A copy of the inference graph in which every value and weight in `grids` is rounded to its grid.

    Where a value's step is worked out as it comes, only layers whose weights are in `grids` read it rounded. Tensors
    that are not rounded are the network's own. Bytes are read as the integers of their grid, unless they are to be made
    real and rounded like all else (not `from_bytes`). Raises RecipeError when `grids` names a value or weight that the
    graph does not have, or does not fit one's shape, or a weight that no operation here can read as integers.
    """
    missing = grids.keys() - {str(name) for node in network.graph.nodes for name in (node.name, node.target)}
    if missing:
        raise RecipeError(f"the network has no value called {', '.join(sorted(missing))}.", mend="quantize it again.")
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    tensors = named_tensors(network)
    insertion = _Insertion(graph, grids, tensors, from_bytes=from_bytes)
    for node in list(graph.nodes):
        insertion.visit(node)
    unread = [name for name, grid in grids.items() if grid.axis is not None and name not in insertion.rounded]
    if unread:
        said = "no operation reads it that could read integers."
        raise RecipeError(said, where=", ".join(sorted(unread)), mend="quantize the network again.")
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

    def __init__(
        self, graph: fx.Graph, grids: Mapping[str, Grid], tensors: dict[str, Tensor], *, from_bytes: bool
    ) -> None:
        self.graph, self.grids, self.tensors, self.from_bytes = graph, grids, tensors, from_bytes
        self.integer = on_grids(graph, [name for name, grid in grids.items() if not grid.is_dynamic])
        # A dequantized value, with the integers behind it and their grid.
        self.integers: dict[fx.Node, tuple[fx.Node, Grid]] = {}
        # The values that layers read, by name, before any operation is another one.
        self.reads = {
            node: layer.reads for node in graph.nodes if (layer := _layer_at(node) or recurrent_at(node)) is not None
        }
        # What layers read of a value whose step is worked out as it comes.
        self.dynamic: dict[fx.Node, fx.Node] = {}
        self.rounded: set[str] = set()
        """The weights that are integers now."""

    def visit(self, node: fx.Node) -> None:
        """Rounds what this node computes, moves it to the integers, or rounds its weights."""
        lookup = lookup_at(node)
        if lookup is not None and lookup.weight in self.grids:
            self._lookup(lookup, self.grids[lookup.weight])
        first = node.args[0] if node.args else None
        read = self.integers.get(first) if isinstance(first, fx.Node) else None
        if read and moves(node):
            self._move(node, *read)
        elif read and keeps_grid(node):
            self._pair(node, read[1])
        elif node.op in ("call_function", "placeholder") and self._has_steps(node.name) and node.users:
            self._pair(node, self.grids[node.name])
        layer = _layer_at(node)
        if layer is not None and layer.weight in self.grids:
            self._layer(layer, read[1] if read else None)
        recurrent = recurrent_at(node)
        if recurrent is not None and not self.grids.keys().isdisjoint(recurrent.weights):
            self._recurrent(recurrent, self.grids.get(self.reads[node]))

    def _has_steps(self, name: str) -> bool:
        return name in self.grids and not self.grids[name].is_dynamic

    def _pair(self, node: fx.Node, grid: Grid) -> None:
        if grid.axis is not None:
            raise _unfit(node.name, grid, "a value, which takes one step")
        readers = list(node.users)
        steps = steps_at(node) if self.from_bytes else None
        if steps is not None and grid.bits == steps.grid.bits and grid == steps.like(grid):
            # The bytes are the integers, or 128 more than they are.
            node = self._dequantize(steps.source, steps.grid, node, readers)
            if not grid.signed:
                return
        elif makes_real(node, self.integer):
            # Whoever computes on real numbers has them as they were made.
            readers = integer_readers(node, self.integer) or readers
        with self.graph.inserting_after(node):
            integers = self._call(pairs.quantize_per_tensor.default, (node, *_settings(grid)), node, grid.dtype)
        self._dequantize(integers, grid, node, readers)

    def _dequantize(self, integers: fx.Node, grid: Grid, like: fx.Node, readers: list[fx.Node]) -> fx.Node:
        with self.graph.inserting_after(integers):
            real = self._call(pairs.dequantize_per_tensor.default, (integers, *_settings(grid)), like, torch.float32)
        self.integers[real] = (integers, grid)
        for reader in readers:
            reader.replace_input_with(like, real)
        return real

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
        node, grid = layer.node, self._fitting(layer.weight, layer.axis)
        arguments = list(node.args)
        arguments[1] = self._constant(node, layer.weight, grid)
        step = self.grids.get(self.reads[node])
        if step is not None and step.is_dynamic:
            arguments[0] = self._as_it_comes(layer.inputs)
        if layer.bias and len(arguments) > 2 and inputs is not None and channels_follow_batch(node):
            arguments[2] = self._constant(node, layer.bias, _bias_grid(inputs, grid))
        node.args = tuple(arguments)

    def _fitting(self, weight: str, axis: int) -> Grid:
        """The grid of a weight that becomes integers now; a RecipeError where it does not fit the weight's shape."""
        grid, whole = self.grids[weight], self.tensors[weight]
        channels, steps = whole.shape[axis], len(grid.scale)
        in_groups = axis == 0 and steps % channels == 0 and whole.numel() % steps == 0
        if grid.axis != axis or (steps != channels and not in_groups):
            raise _unfit(weight, grid, f"a weight of shape {tuple(whole.shape)}")
        self.rounded.add(weight)
        return grid

    def _recurrent(self, layer: Recurrent, inputs: Grid | None) -> None:
        """Gives the layer the real numbers that its matrices' integers stand for.

        It computes on such, but for an LSTM whose inputs are rounded as they come: that is a layer of its own then.
        Others of such inputs are marked, for what writes them step by step.
        """
        node, integers = layer.node, dict[str, fx.Node]()
        for name in layer.weights:
            if name in self.grids:
                integers[name] = self._constant(node, name, self._fitting(name, 0))
        values, states, given, *others = node.args
        chosen = [integers.get(str(each.target), each) for each in cast("list[fx.Node]", given)]
        node.args = (values, states, chosen, *others)
        if inputs is not None and inputs.is_dynamic:
            node.meta = {**node.meta, ROUNDS: True}
            if layer.computes_integers:
                node.target = torch.ops.haversack.lstm_as_it_comes.default

    def _as_it_comes(self, value: fx.Node) -> fx.Node:
        """The value on 8 bits that span it and zero, one pair for all layers that read it."""
        if value not in self.dynamic:
            low, high, dtype = DYNAMIC.qmin, DYNAMIC.qmax, DYNAMIC.dtype
            with self.graph.inserting_after(value):
                ends = self.graph.call_function(pairs.choose_qparams.tensor, (value, low, high, _LEAST_STEP, dtype))
            ends.meta = {**value.meta, "val": (torch.empty((), device="meta"), torch.empty((), device="meta"))}
            with self.graph.inserting_after(ends):
                zero = self._part(ends, 1)
                scale = self._part(ends, 0)
            settings = scale, zero, low, high, dtype
            with self.graph.inserting_after(zero):
                integers = self._call(pairs.quantize_per_tensor.tensor, (value, *settings), value, dtype)
            with self.graph.inserting_after(integers):
                real = self._call(pairs.dequantize_per_tensor.tensor, (integers, *settings), value, torch.float32)
            self.dynamic[value] = real
        return self.dynamic[value]

    def _part(self, several: fx.Node, index: int) -> fx.Node:
        part = self.graph.call_function(operator.getitem, (several, index))
        part.meta = {**several.meta, "val": several.meta["val"][index]}
        return part

    def _lookup(self, lookup: Lookup, grid: Grid) -> None:
        """Takes rows of integers out of the weight."""
        self.rounded.add(lookup.weight)
        whole = self.tensors[lookup.weight]
        groups = len(grid.scale) // len(whole) or 1
        by_row = len(grid.scale) == len(whole) * groups and whole.shape[1] % groups == 0 and not any(grid.zero_point)
        if grid.axis is None and self.grids.get(lookup.node.name, grid) == grid:
            self._take(lookup, grid)
        elif grid.axis == 0 and by_row:
            self._take_with_steps(lookup, grid, groups)
        else:
            raise _unfit(lookup.weight, grid, f"an embedding of shape {tuple(whole.shape)}")

    def _take(self, lookup: Lookup, grid: Grid) -> None:
        """Takes rows out of a weight of one step, which lie on that grid as values."""
        node, readers = lookup.node, list(lookup.node.users)
        with self.graph.inserting_before(node):
            table = self._get(f"{lookup.weight}_integers_{node.name}", grid.stored(self.tensors[lookup.weight]))
            integers = self._call(aten.embedding.default, (table, *node.args[1:]), node, grid.dtype)
        self._dequantize(integers, grid, node, readers)

    def _take_with_steps(self, lookup: Lookup, grid: Grid, groups: int) -> None:
        """Takes rows and their steps, of which each has as many as groups; the node becomes their product."""
        node, whole = lookup.node, self.tensors[lookup.weight]
        value = node.meta["val"]
        with self.graph.inserting_before(node):
            # Rows of one group each and their steps as a layer with the same weight reads them: files hold them once.
            rows = whole.reshape(len(grid.scale), -1)
            table = self._get(f"{lookup.weight}_integers_{node.name}", grid.stored(rows))
            if groups > 1:
                table = self._call(aten.reshape.default, (table, list(whole.shape)), table, grid.dtype)
                table.meta["val"] = whole.to("meta", grid.dtype)
            steps = self._get(f"{lookup.weight}_scale_{node.name}", torch.tensor(grid.scale))
            steps = self._call(aten.reshape.default, (steps, [len(whole), groups]), steps, torch.float32)
            steps.meta["val"] = torch.empty(len(whole), groups, device="meta")
            integers = self._call(aten.embedding.default, (table, *node.args[1:]), node, grid.dtype)
            scale = self._call(aten.embedding.default, (steps, *node.args[1:]), node, torch.float32)
            scale.meta["val"] = value[..., :groups]
            real = self._call(aten.to.dtype, (integers, torch.float32), node, torch.float32)
            if groups == 1:
                node.target, node.args, node.kwargs = aten.mul.Tensor, (real, scale), {}
                return
            real = self._call(aten.unflatten.int, (real, -1, [groups, -1]), node, torch.float32)
            scale = self._call(aten.unsqueeze.default, (scale, -1), node, torch.float32)
            real.meta["val"] = value.unflatten(-1, (groups, -1))
            scale.meta["val"] = real.meta["val"][..., :1]
            product = self._call(aten.mul.Tensor, (real, scale), real, torch.float32)
        node.target, node.args, node.kwargs = aten.flatten.using_ints, (product, -2), {}

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


def _layer_at(node: fx.Node) -> FoldedLayer | None:
    return layer_at(node) or product_at(node)


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
