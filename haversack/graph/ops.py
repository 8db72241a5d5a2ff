"""Operators: one row each, what passes may ask of it; and what in a folded graph computes on integers.

Passes ask for traits. Only this table, readers and writers of graphs and files name ATen operators, and tables whose
content is a rule an operator. Those that only move values (slice, pad, reshape...) stand between the pairs and carry
integers. Those that pick values (max pool, nearest upsampling) read and write one and the same grid, which runtimes
compute on integers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from types import MappingProxyType
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.trace import arguments_of

aten = torch.ops.aten


class Trait(Flag):
    """What passes ask of an operator; `traits_of(node) & (Trait.SUM | Trait.PRODUCT)` is true where one holds."""

    INTEGER = auto()  # runtimes have a form of it that computes on integers
    LINEAR = auto()
    CONVOLUTION = auto()
    TRANSPOSED = auto()
    LAYER = LINEAR | CONVOLUTION | TRANSPOSED
    NORM = auto()
    NORMALIZES = auto()  # each sample by what it is itself, which takes real numbers
    SUM = auto()
    DIFFERENCE = auto()
    PRODUCT = auto()
    OF_TWO = SUM | DIFFERENCE | PRODUCT
    CHOICE = auto()  # of two values place by place, as a mask says
    JOIN = auto()
    POINTWISE = auto()  # a function of one number
    CLAMP = auto()
    HOMOGENEOUS = auto()  # pointwise, and commutes with a positive factor
    KEEPS_SIGN = auto()  # pointwise, and gives nothing negative for what is not negative
    AVERAGE = auto()
    PICK = auto()
    WINDOW = auto()  # an average of windows, which lies on the grid of what it reads
    REDUCTION = auto()  # over the dimensions `dim`
    RESHAPE = auto()
    REARRANGE = auto()
    SLICE = auto()
    PAD = auto()
    SPLIT = auto()
    LOOKUP = auto()  # rows of a weight
    MATRIX = auto()  # a product of two values as matrices
    RECURRENT = auto()  # computes on real numbers; its matrices may be stored as integers
    MOVE = RESHAPE | REARRANGE | SLICE | PAD | SPLIT
    NOTHING = auto()  # gives what it reads
    DROPOUT = auto()
    CAST = auto()
    RANDOM = auto()


@dataclass(frozen=True)
class Operator:
    """Its traits; the numbers between which all results lie, where runtimes demand that grid and no other; its clamp.

    `low` is where it clamps, or the argument that says so.
    """

    traits: Trait
    ends: tuple[float, float] | None = None
    low: float | str | None = None


def _rows(row: Operator | Trait, *targets: object) -> dict[object, Operator]:
    return dict.fromkeys(targets, row if isinstance(row, Operator) else Operator(row))


_CURVE, _CLAMP = Trait.POINTWISE | Trait.INTEGER, Trait.POINTWISE | Trait.CLAMP
_CONVOLUTION, _TRANSPOSED = Trait.CONVOLUTION | Trait.INTEGER, Trait.TRANSPOSED | Trait.INTEGER
_AVERAGE = Trait.AVERAGE | Trait.INTEGER

OPERATORS: Mapping[object, Operator] = MappingProxyType(
    _rows(Trait.LINEAR | Trait.INTEGER, aten.linear.default)
    | _rows(_CONVOLUTION, aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding)
    | _rows(Trait.CONVOLUTION, aten.conv3d.default, aten.conv3d.padding)
    | _rows(_TRANSPOSED, aten.conv_transpose1d.default, aten.conv_transpose2d.input)
    | _rows(Trait.TRANSPOSED, aten.conv_transpose3d.input)
    | _rows(Trait.NORM, aten.batch_norm.default)
    | _rows(Trait.NORMALIZES, aten.layer_norm.default, aten.group_norm.default)
    | _rows(Trait.SUM | Trait.INTEGER, aten.add.Tensor)
    | _rows(Trait.DIFFERENCE | Trait.INTEGER, aten.sub.Tensor)
    | _rows(Trait.PRODUCT | Trait.INTEGER, aten.mul.Tensor)
    | _rows(Trait.CHOICE, aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
    | _rows(Trait.CHOICE, aten.masked_fill.Scalar, aten.masked_fill.Tensor)
    | _rows(Trait.JOIN | Trait.INTEGER, aten.cat.default)
    | _rows(Operator(_CLAMP | Trait.HOMOGENEOUS, low=0.0), aten.relu.default)
    | _rows(Operator(_CLAMP, low=0.0), aten.relu6.default)
    | _rows(Operator(_CLAMP, low="min"), aten.clamp.default, aten.clamp_min.default)
    | _rows(Operator(_CLAMP, low="min_val"), aten.hardtanh.default)
    | _rows(_CURVE | Trait.HOMOGENEOUS | Trait.KEEPS_SIGN, aten.leaky_relu.default)
    | _rows(_CURVE | Trait.KEEPS_SIGN, aten.hardswish.default)
    | _rows(Operator(_CURVE, ends=(0.0, 1.0)), aten.sigmoid.default, aten.hardsigmoid.default)
    | _rows(Operator(_CURVE, ends=(-1.0, 1.0)), aten.tanh.default)
    | _rows(Operator(Trait.INTEGER, ends=(0.0, 1.0)), aten.softmax.int)
    | _rows(Trait.POINTWISE, aten.elu.default, aten.silu.default, aten.gelu.default)
    | _rows(_AVERAGE | Trait.WINDOW, aten.avg_pool1d.default, aten.avg_pool2d.default)
    | _rows(_AVERAGE, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)
    | _rows(_AVERAGE | Trait.REDUCTION, aten.mean.dim)
    | _rows(Trait.PICK, aten.max_pool1d.default, aten.max_pool2d.default)
    | _rows(Trait.PICK, aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec)
    | _rows(Trait.PICK | Trait.REDUCTION, aten.amax.default)
    | _rows(Trait.RESHAPE, aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int)
    | _rows(Trait.REARRANGE, aten.permute.default, aten.transpose.int, aten.expand.default, aten.select.int)
    | _rows(Trait.REARRANGE, aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default)
    | _rows(Trait.SLICE, aten.slice.Tensor)
    | _rows(Trait.PAD, aten.pad.default, aten.constant_pad_nd.default)
    | _rows(Trait.SPLIT, aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int)
    | _rows(Trait.LOOKUP, aten.embedding.default)
    | _rows(Trait.MATRIX, aten.matmul.default, aten.mm.default)
    | _rows(Trait.RECURRENT, aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
    | _rows(Trait.NOTHING, aten.alias.default, aten.clone.default, aten.contiguous.default, aten.detach.default)
    | _rows(Trait.NOTHING, aten.lift_fresh_copy.default)
    | _rows(Trait.DROPOUT, aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default)
    | _rows(Trait.CAST, aten.to.device, aten.to.dtype, aten.to.dtype_layout, aten.to.other)
    | _rows(Trait.CAST, aten._to_copy.default)  # noqa: SLF001
    | _rows(Trait.RANDOM, aten.rand.default, aten.randn.default, aten.rand_like.default, aten.randn_like.default)
)
_OTHER = Operator(Trait(0))


def traits_of(node: fx.Node) -> Trait:
    """What the node's operator is said to be; no trait where the table has no row for it."""
    return OPERATORS.get(node.target, _OTHER).traits


def fixed_range(node: fx.Node) -> tuple[float, float] | None:
    """The numbers between which results lie, where TFLite's specification settles their grid."""
    return OPERATORS.get(node.target, _OTHER).ends


def lowest(node: fx.Node) -> float | None:
    """The number below which no result of the node lies; None where its operator names none."""
    row = OPERATORS.get(node.target, _OTHER)
    low: object = row.ends[0] if row.ends else arguments_of(node)[row.low] if isinstance(row.low, str) else row.low
    return low if isinstance(low, int | float) else None


def channel_dim(layer: fx.Node) -> int:
    """The dimension of a layer's outputs that the rows of its weight make."""
    return -1 if traits_of(layer) & Trait.LINEAR else 1


def channels_follow_batch(layer: fx.Node) -> bool:
    """Whether they are dimension 1 of its outputs: in all layers but linear ones on more than two dimensions."""
    return channel_dim(layer) == 1 or len(layer.meta["val"].shape) == 2


def moves(node: fx.Node) -> bool:
    """Whether results are values of what is read, moved: the results of a split are, one by one."""
    if node.target is operator.getitem:
        return bool(traits_of(cast("fx.Node", node.args[0])) & Trait.SPLIT)
    return bool(traits_of(node) & Trait.MOVE)


def keeps_grid(node: fx.Node) -> bool:
    """Whether results lie on the grid of what is read: picked values, and averages of windows (TFLite demands it).

    An average of the whole map is a mean, which may have a grid of its own.
    """
    if not traits_of(node) & Trait.WINDOW:
        return bool(traits_of(node) & Trait.PICK)
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
    """The operations that runtimes compute on integers; those that only move or pick them are not among them.

    Sums before or behind what normalizes each sample are not, nor are sums of these: 8 bits would hold all that a
    network carries from block to block. Nor is what has no weights and stands between operations on real numbers alone.
    """
    able, carried = dict.fromkeys(node for node in graph.nodes if _has_integer_form(node)), set[fx.Node]()
    for node in list(able):
        if _is_carried(node, carried):
            carried.add(node)
            del able[node]
    while alone := [node for node in able if not traits_of(node) & Trait.LAYER and _is_alone(node, able)]:
        for node in alone:
            del able[node]
    return iter(able)


def _is_carried(node: fx.Node, carried: Container[fx.Node]) -> bool:
    """Whether it is a sum that what normalizes each sample reads, or of what that or such a sum gives."""
    if not traits_of(node) & (Trait.SUM | Trait.DIFFERENCE):
        return False
    beside = (*map(_source, _read(node)), *_final_readers(node))
    return any(traits_of(each) & Trait.NORMALIZES or each in carried for each in beside)


def _is_alone(node: fx.Node, integer: Container[fx.Node]) -> bool:
    """Whether all that it reads, and all that reads it, is computed on real numbers."""
    sources = [_source(value) for value in _read(node)]
    made = [cast("fx.Node", each.args[0]) if _clamps_at_zero(each) else each for each in sources]
    if any(each.op == "placeholder" or each in integer for each in made):
        return False
    return not any(reader in integer for reader in _final_readers(node))


def _final_readers(value: fx.Node) -> Iterator[fx.Node]:
    """Whoever reads a value behind operations that only move, pick or clamp it."""
    for reader in value.users:
        if moves(reader) or keeps_grid(reader) or _clamps_at_zero(reader):
            yield from _final_readers(reader)
        else:
            yield reader


def integer_readers(value: fx.Node, integer: Container[fx.Node]) -> list[fx.Node]:
    """The users of a value at which, or behind whose moves, one of these operations reads it."""
    return [
        user
        for user in value.users
        if user in integer
        or ((moves(user) or keeps_grid(user)) and any(map(integer.__contains__, _final_readers(user))))
    ]


def on_grids(graph: fx.Graph, names: Collection[str]) -> frozenset[fx.Node]:
    """The operations that read integers and make some, where the values and weights of these names are such."""

    def holds(node: fx.Node) -> bool:
        weight = integer_weight(node, _is_constant)
        values = (*map(_source, _read(node)), _after_activation(node))
        return all(each.name in names for each in values) and (weight is None or str(weight.target) in names)

    return frozenset(node for node in graph.nodes if _has_integer_form(node) and holds(node))


def makes_real(node: fx.Node, integer: Container[fx.Node]) -> bool:
    """Whether a value is computed in real numbers, where these operations are computed on integers."""
    clamped = node.args[0] if node.op == "call_function" and _clamps_at_zero(node) else None
    return node.op == "call_function" and node not in integer and clamped not in integer


def fixed_ranges(graph: fx.Graph) -> dict[str, tuple[float, float]]:
    """The values whose grid TFLite's specification settles, with the numbers between which they lie."""
    return {node.name: ends for node in graph.nodes if (ends := fixed_range(node))}


def sharing(graph: fx.Graph) -> tuple[tuple[str, ...], ...]:
    """Groups of values that must lie on one grid: what a concatenation reads and what it writes."""
    groups: list[dict[str, None]] = []
    fixed = fixed_ranges(graph)
    for node in integer_operations(graph):
        if traits_of(node) & Trait.JOIN:
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
        return int(self.transposed or bool(traits_of(self.node) & Trait.MATRIX))


def layer_at(node: fx.Node) -> FoldedLayer | None:
    """The layer that this node is; None where it is another operation, or one whose weight is computed."""
    if not _is_layer(node):
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
        transposed=bool(traits_of(node) & Trait.TRANSPOSED),
        computes_bias=bias is not None and not _is_constant(bias),
    )


def layers(graph: fx.Graph) -> Iterator[FoldedLayer]:
    """The convolutions and linear layers that have an integer form, in order."""
    for node in graph.nodes:
        layer = layer_at(node) if _has_integer_form(node) else None
        if layer is not None:
            yield layer


@dataclass(frozen=True, eq=False)
class Lookup:
    """An embedding of the folded graph: it takes rows out of the weight of that name."""

    node: fx.Node
    weight: str


def lookup_at(node: fx.Node) -> Lookup | None:
    """The embedding that this node is; None where it is another operation, or one whose weight is computed."""
    if not traits_of(node) & Trait.LOOKUP or not _is_constant(node.args[0]) or not _is_real(node):
        return None
    return Lookup(node, str(cast("fx.Node", node.args[0]).target))


def lookups(graph: fx.Graph) -> Iterator[Lookup]:
    """The embeddings whose weight the graph holds, in order."""
    return (found for node in graph.nodes if (found := lookup_at(node)))


def product_at(node: fx.Node) -> FoldedLayer | None:
    """The matrix product by a constant (inputs, outputs) that this node is: a linear layer without a bias."""
    if not traits_of(node) & Trait.MATRIX or not _is_constant(node.args[1]) or not _is_real(node):
        return None
    values, weight = cast("tuple[fx.Node, fx.Node]", node.args)
    if _is_constant(values) or weight.meta["val"].dim() != 2:
        return None
    return FoldedLayer(node, str(weight.target), "", values, 1, transposed=False, computes_bias=False)


def products(graph: fx.Graph) -> Iterator[FoldedLayer]:
    """The matrix products by a constant, in order."""
    return (found for node in graph.nodes if (found := product_at(node)))


def left_float(graph: fx.Graph) -> tuple[str, ...]:
    """What the operations on real numbers that stay in float32 are called, one entry each."""
    return tuple(str(node.target) for node in real_operations(graph))


def real_operations(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations on real numbers that stay in float32."""

    def carries(node: fx.Node) -> bool:
        return node.target is operator.getitem or bool(traits_of(node) & (Trait.PICK | Trait.MOVE | Trait.LOOKUP))

    integer = set(integer_operations(graph))
    return (
        node
        for node in graph.nodes
        if node.op == "call_function" and _is_real(node) and any(map(_is_real, node.all_input_nodes))
        if not (carries(node) or _clamps_at_zero(node) or node in integer)
    )


def integer_weight(node: fx.Node, is_constant: Callable[[object], bool]) -> fx.Node | None:
    """The weight that becomes integers where this is a layer with an integer form, in a graph folded or as traced."""
    return cast("fx.Node", node.args[1]) if _is_layer(node) and _has_integer_form(node, is_constant) else None


def _is_layer(node: fx.Node) -> bool:
    """Whether it is a layer of a kind that can have an integer form."""
    traits = traits_of(node)
    return bool(traits & Trait.LAYER) and bool(traits & Trait.INTEGER)


def _is_constant(argument: object) -> bool:
    """Whether the folded graph holds this argument."""
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _has_integer_form(node: fx.Node, is_constant: Callable[[object], bool] = _is_constant) -> bool:
    """Whether runtimes compute the operation on integers: real values in and out, weights that are constant."""
    traits = traits_of(node)
    if not traits & Trait.INTEGER or not _is_real(node):
        return False
    if traits & Trait.LAYER and not is_constant(node.args[1]):
        return False
    if traits & Trait.TRANSPOSED and any(extent != 1 for extent in _groups_and_dilations(node)):
        return False
    if traits & Trait.OF_TWO and (node.kwargs or not all(isinstance(each, fx.Node) for each in node.args)):
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
    traits = traits_of(node)
    if traits & Trait.JOIN:
        return list(cast("list[fx.Node]", node.args[0]))
    return list(cast("list[fx.Node]", node.args[: 2 if traits & Trait.OF_TWO else 1]))


def _after_activation(node: fx.Node) -> fx.Node:
    """The value that this operation's result becomes for its readers: after the clamping activation, if there is one.

    Such a clamp vanishes into the rounding of its result, whose grid begins at zero.
    """
    reader = next(iter(node.users), None)
    if keeps_grid(node):
        return node
    return reader if reader is not None and len(node.users) == 1 and _clamps_at_zero(reader) else node


def _clamps_at_zero(node: fx.Node) -> bool:
    return bool(traits_of(node) & Trait.CLAMP) and lowest(node) == 0


def _source(value: fx.Node) -> fx.Node:
    """Where the integers of a value are made: behind all operations that only move or pick them."""
    while moves(value) or keeps_grid(value):
        value = cast("fx.Node", value.args[0])
    return value
