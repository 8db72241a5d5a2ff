"""Read: the graph with quantize/dequantize pairs, or a float one, becomes the integer graph.

Layouts are settled in one pass: every value remembers which torch dimension lies on which axis, so that permuting
computes nothing, constants are laid like what they meet, and only what cannot be had otherwise is transposed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.graph.one_length import without_sizes
from haversack.graph.ops import moves
from haversack.graph.pairs import pairs
from haversack.graph.trace import arguments_of, computes_tensors, layer_path
from haversack.graph.unroll import unrolled
from haversack.grid import Grid
from haversack.integer import IntegerGraph
from haversack.integer.read import attention, elementwise, layers, lookups, masks, pooling, shapes
from haversack.integer.read.builder import Builder
from haversack.integer.read.call import Made, Rule, TorchCall
from haversack.integer.read.ending import Ending, integer_ending, real_ending, refused, rounding
from haversack.integer.read.placed import Constant, Order, Placed, channels_last, sizes_of
from haversack.lengths import require_fixed

aten = torch.ops.aten

_TABLE: Mapping[Any, Rule] = {
    **attention.TABLE,
    **elementwise.TABLE,
    **layers.TABLE,
    **lookups.TABLE,
    **masks.TABLE,
    **pooling.TABLE,
    **shapes.TABLE,
}
# What wants its channels last; what wants torch's own order.
_MAPS = {*layers.LAYERS, *pooling.TABLE} - {
    *(aten.linear.default, aten.mean.dim, aten.amax.default, aten.sum.dim_IntList)
}
_ROWS = {*attention.TABLE, aten.linear.default, aten.permute.default, aten.transpose.int}


def read(lowered: fx.GraphModule) -> IntegerGraph:
    """The integer graph of what `haversack.graph.inference.lower` gives, for a batch of one and inputs of one length.

    Inputs and outputs are real numbers, or whole ones that rows of a table are looked up by; integers lie between
    QUANTIZE and DEQUANTIZE. An operation whose inputs are
    dequantized and whose result is rounded straight away is computed on integers, every other one in float32. Raises
    ExportError, naming operation and layer, for what TFLite's operations cannot express.
    """
    require_fixed(lowered.meta.get("free", ()), "an integer graph")
    return _Reader(unrolled(without_sizes(lowered))).graph()


class _Reader:
    """One pass over the nodes."""

    def __init__(self, lowered: fx.GraphModule) -> None:
        self.lowered, self.builder = lowered, Builder()
        self.made: dict[fx.Node, Made] = {}
        self.inputs: list[Placed] = []

    def graph(self) -> IntegerGraph:
        """What the nodes give."""
        for node in self.lowered.graph.nodes:
            if node.op == "placeholder":
                self.made[node] = self._input(node)
            elif node.op == "get_attr":
                self.made[node] = Constant(self.lowered.get_buffer(str(node.target)))
            elif node.op == "call_function" and node not in self.made and computes_tensors(node):
                self._visit(node)
        outputs = [self._output(node) for node in _outputs(self.lowered)]
        values, operations = self.builder.finished([each.name for each in outputs])
        values |= {each.name: self.builder.values[each.name] for each in self.inputs}
        graph = IntegerGraph(
            values,
            operations,
            tuple(each.name for each in self.inputs),
            tuple(each.name for each in outputs),
            tuple(_plain(each.order) for each in self.inputs),
            tuple(_plain(each.order) for each in outputs),
        )
        return _with_named_outputs(graph, self.lowered.meta.get("outputs", ()))

    def _input(self, node: fx.Node) -> Placed:
        value = node.meta["val"]
        counted = value.dtype in (torch.int64, torch.int32)
        if not counted and value.dtype not in (torch.float32, torch.uint8):
            raise refused(node, f"of {value.dtype}")
        grid = _grid_of_bytes(node) if value.dtype == torch.uint8 else None
        order = tuple(range(len(value.shape))) if counted else _plain(_wanted(node, len(value.shape)))
        placed = Placed("", order, sizes_of(value), grid, counted=counted)
        self.inputs.append(self.builder.declare(placed, str(node.target)))
        return self.inputs[-1]

    def _output(self, node: fx.Node) -> Placed:
        placed = self.made.get(node)
        if not isinstance(placed, Placed):
            raise refused(node, "as an output")
        self.builder.path = ""
        placed = self.builder.unmixed(placed)
        if None in placed.order:
            placed = self.builder.laid(placed, tuple(dim for dim in placed.order if dim is not None))
        if sizes_of(node.meta["val"]) != placed.sizes:
            raise refused(node, "as an output")
        return self.builder.real(placed)

    def _visit(self, node: fx.Node) -> None:
        """Writes one node, with the activation and rounding behind it."""
        self.builder.path = layer_path(node)
        if node.target in (pairs.dequantize_per_channel.default, pairs.dequantize_per_tensor.default):
            source = self.made[cast("fx.Node", node.args[0])]
            if isinstance(source, Constant):
                self.made[node] = replace(source, grid=_grid_of(self.lowered, node))
                return
        rule = _TABLE.get(node.target)
        if rule is None:
            raise refused(node)
        if rule.moves and self._is_integer_constant(node.args[0]):
            raise _grouped(node)
        ending, integer = (Ending(), False) if rule.moves else self._ending(node, rule)
        made = rule.write(TorchCall(node, self.builder, arguments_of(node), self.made, ending, integer))
        for each in (node, *ending.nodes):
            self.made[each] = made

    def _is_integer_constant(self, argument: object) -> bool:
        made = self.made.get(argument) if isinstance(argument, fx.Node) else None
        return isinstance(made, Constant) and made.grid is not None

    def _ending(self, node: fx.Node, rule: Rule) -> tuple[Ending, bool]:
        """What the operation takes in behind it, and whether it is computed on integers."""
        if self._reads_integers(node, rule):
            ending = integer_ending(node)
            if ending is not None:
                return ending, True
        return real_ending(node), False

    def _reads_integers(self, node: fx.Node, rule: Rule) -> bool:
        made = [self.made.get(each) for each in node.all_input_nodes]
        grids = [each.grid for each in made if isinstance(each, Placed)]
        if not grids or any(grid is None or grid.bits not in rule.bits for grid in grids):
            return False
        if len({grid.bits for grid in grids if grid}) > 1:
            return False
        weight = self.made.get(cast("fx.Node", node.args[1])) if node.target in layers.LAYERS else None
        return weight is None or (isinstance(weight, Constant) and weight.grid is not None)


def _grid_of_bytes(node: fx.Node) -> Grid:
    """The grid of an input of bytes, which are 128 more than its integers: that on which they are read."""
    readers = list(node.users)
    while any(map(moves, readers)):
        readers = [user for reader in readers for user in (reader.users if moves(reader) else (reader,))]
    rounded = {rounding(reader).grid for reader in readers if reader.target is pairs.dequantize_per_tensor.default}
    plain = any(reader.target is not pairs.dequantize_per_tensor.default for reader in readers)
    grids = rounded | ({Grid(8, True, (1.0,), (-128,))} if plain else set())
    if len(grids) != 1:
        raise refused(node, "of bytes that are read on several grids")
    return grids.pop()


def _with_named_outputs(graph: IntegerGraph, known: Sequence[str]) -> IntegerGraph:
    """The graph whose outputs are called as in ONNX files, but for those that are inputs."""
    counted = (f"output{count or ''}" for count in itertools.count())
    wanted = itertools.chain(filter(str.isidentifier, known), counted)
    free = (name for name in wanted if name not in graph.values)
    names = {name: next(free) for name in dict.fromkeys(graph.outputs) if name not in graph.inputs}
    values = {names.get(name, name): replace(value, name=names.get(name, name)) for name, value in graph.values.items()}
    outputs = tuple(names.get(name, name) for name in graph.outputs)
    operations = tuple(operation.renamed(names) for operation in graph.operations)
    return replace(graph, values=values, operations=operations, outputs=outputs)


def _grouped(rows: fx.Node) -> ExportError:
    """The error that names the layer whose weight has several steps a channel, joined from rows of one each."""
    return ExportError(
        "TFLite's weights have one step a channel, and none for each group of a channel's weights.",
        where=f"layer {next(map(layer_path, rows.users), '')}",
        mend="write group = 0 in quantize_weights, or choose another runtime.",
    )


def _grid_of(lowered: fx.GraphModule, node: fx.Node) -> Grid:
    """The grid of a constant that the graph dequantizes."""
    if node.target is pairs.dequantize_per_tensor.default:
        _, scale, zero, low, high, dtype = node.args
        return Grid(
            _bits(dtype), True, (cast("float", scale),), (cast("int", zero),), None, cast("int", low), cast("int", high)
        )
    _, scales, zeros, axis, low, high, dtype = cast("Any", node.args)
    steps, points = (lowered.get_buffer(str(each.target)).tolist() for each in (scales, zeros))
    if low < 0 and dtype.itemsize == 1:
        bits = max(2, int(high).bit_length() + 1)
        return Grid(bits, True, tuple(steps), tuple(points), axis, low, high)
    return Grid(8 * dtype.itemsize, dtype != torch.uint8, tuple(steps), tuple(points), axis, low, high)


def _bits(dtype: Any) -> int:  # noqa: ANN401 - a torch.dtype out of a graph
    return 8 * int(dtype.itemsize)


def _outputs(lowered: fx.GraphModule) -> list[fx.Node]:
    given = lowered.graph.output_node().args[0]
    return list(cast("tuple[fx.Node, ...]", given)) if isinstance(given, tuple | list) else [cast("fx.Node", given)]


def _plain(order: Order) -> tuple[int, ...]:
    return tuple(dim for dim in order if dim is not None)


def _wanted(node: fx.Node, rank: int) -> Order:
    """How an input lies: channels last for what convolves or pools, else as in torch."""
    plain = tuple(range(rank))
    if rank not in (3, 4):
        return plain
    for reader in _readers(node):
        if reader.target in _MAPS:
            return channels_last(rank)
        if reader.target in _ROWS:
            return plain
    return channels_last(rank) if rank == 4 else plain


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Whoever reads the value, directly or behind operations that keep its order."""
    seen, queue = {node}, [node]
    while queue:
        for reader in queue.pop(0).users:
            if reader not in seen:
                seen.add(reader)
                yield reader
                if reader.target in _TABLE and _rank(reader) == _rank(node):
                    queue.append(reader)


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else -1
