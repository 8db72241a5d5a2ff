"""Operations: what runs of a network, in order, with shapes that say which channel groups and modules they hang on."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, fx, nn

from haversack.channels.book import ODD_BATCH, Book, ChannelOperation, Value, sizes
from haversack.channels.groups import Reading, channel_reading, components
from haversack.channels.shapes import follow
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.memory import operation as kind_of
from haversack.graph.ops import Trait, integer_operations, layer_at, lookup_at, lowest, traits_of
from haversack.graph.trace import arguments_of, computes_tensors, layer_path, trace
from haversack.model import Model

_NONE = Trait(0)


@dataclass(frozen=True)
class Extent:
    """A dimension: its size, and for each channel group in it how much smaller it is for a channel less."""

    size: int
    shrinks: tuple[tuple[str, int], ...] = ()

    def left(self, lost: Mapping[str, int]) -> int:
        """The size that is left when groups have lost so many channels."""
        return self.size - sum(each * lost.get(group, 0) for group, each in self.shrinks)


Extents = tuple[Extent, ...]


@dataclass(frozen=True)
class FoldedOperation:
    """One operation of the folded graph with the clamp behind it, for one sample; without weights if `weight` is ''."""

    name: str
    """The name of its node; grids are called so."""
    path: str
    """The module whose code it is; '' for the network itself."""
    kind: str
    inputs: tuple[Extents, ...]
    output: Extents
    weight: str = ""
    weight_shape: Extents = ()
    bias: str = ""
    constants: tuple[Extents, ...] = ()
    """Other tensors of the network that it reads."""
    table: str = ""
    """That of them of which an embedding takes rows."""
    window: tuple[int, ...] = ()
    """The kernel of a pool."""
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    activation: str = ""
    traits: Trait = _NONE
    integer: bool = False
    """Whether runtimes have a form of it that computes on integers."""

    @property
    def layer(self) -> str:
        """The path of the module that holds its weight."""
        return self.weight.rpartition(".")[0] if self.weight else self.path

    @property
    def stored(self) -> set[str]:
        """By what a setting names the weight or table that can be stored in fewer bits: its path, or its name."""
        name = self.weight or self.table
        return {name, name.rpartition(".")[0] or name} if name else set()

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a filter of its own, so that a layer of many inputs grows with each by itself."""
        return bool(self.weight_shape) and self.kind != "linear" and self.weight_shape[1].size == 1

    @property
    def output_like_input(self) -> bool:
        """Whether its results are values that it reads, picked or moved, which stay integers where they are some."""
        return bool(self.traits & (Trait.PICK | Trait.MOVE | Trait.WINDOW))

    @property
    def computes(self) -> bool:
        """Whether it takes time: what reads a value differently, or takes all of it, does not."""
        free = self.traits & (Trait.RESHAPE | Trait.SPLIT) or self.kind == "getitem"
        return not free and not (self.traits & Trait.SLICE and self.inputs[:1] == (self.output,))


@dataclass(frozen=True, eq=False)
class Followed:
    """The folded graph of a network with the shape of every value, and how many channels its groups have."""

    folded: Folded
    shapes: Mapping[fx.Node, Extents]
    groups: Mapping[str, int]
    reading: Reading


def followed(model: Model) -> Followed:
    """The folded graph of the model, and which channel groups the dimensions of its values and weights hang on."""
    folded = inference(model)
    reading = channel_reading(trace(model.module, model.example), model.module)
    book = Book(reading.book.choices)
    values, weights = _atoms(folded, model.module, book)
    roots = components(book.count, book.same)
    groups: dict[int, str] = {}
    for group in reversed(reading.found.groups):
        for member in group.members:
            atoms = weights.get((member.tensor, member.dim))
            if atoms is not None:
                groups |= dict.fromkeys(roots[atoms[np.array(member.indices).reshape(-1)]].tolist(), group.name)
    counts = {group.name: group.size for group in reversed(reading.found.groups)}
    shapes = {node: _extents(node, value, roots, groups, counts) for node, value in values.items()}
    return Followed(folded, shapes, counts, reading)


def _atoms(
    folded: Folded, module: nn.Module, book: Book
) -> tuple[dict[fx.Node, Value], dict[tuple[str, int], np.ndarray[Any, Any]]]:
    """The atoms of each dimension of every value, and of every weight by its name."""
    values: dict[fx.Node, Value] = {}
    weights: dict[tuple[str, int], np.ndarray[Any, Any]] = {}
    for node in folded.graph.nodes:
        value = node.meta.get("val")
        if node.op == "get_attr":
            tensor = folded.tensor(str(node.target))
            dims = tuple(
                weights.setdefault((str(node.target), dim), book.fresh(size)) for dim, size in enumerate(tensor.shape)
            )
            values[node] = dims
        elif node.op == "placeholder" and isinstance(value, Tensor):
            values[node] = (None,) * value.dim()
        elif node.op == "call_function" and computes_tensors(node):
            values[node] = follow(ChannelOperation(node, module, values, book))
    return values, weights


def _extents(
    node: fx.Node, value: Value, roots: np.ndarray[Any, Any], groups: Mapping[int, str], counts: Mapping[str, int]
) -> Extents:
    shape = node.meta.get("val")
    if not isinstance(shape, Tensor) or not isinstance(value, tuple):
        return ()
    known = value if len(value) == shape.dim() else (None,) * shape.dim()
    return tuple(
        _extent(_of_one(size), atoms, roots, groups, counts) for size, atoms in zip(sizes(node), known, strict=True)
    )


def _of_one(size: int) -> int:
    """A size for a single sample."""
    return size // ODD_BATCH if size % ODD_BATCH == 0 and size else size


def _extent(
    size: int,
    atoms: np.ndarray[Any, Any] | None,
    roots: np.ndarray[Any, Any],
    groups: Mapping[int, str],
    counts: Mapping[str, int],
) -> Extent:
    if atoms is None or len(atoms) != size:
        return Extent(size)
    met: dict[str, int] = {}
    for root in roots[atoms].tolist():
        if root in groups:
            met[groups[root]] = met.get(groups[root], 0) + 1
    return Extent(size, tuple((name, count // counts[name]) for name, count in met.items()))


def operations(model: Model | Followed) -> tuple[FoldedOperation, ...]:
    """What runs of the network, in order; clamps stand with the operation before them."""
    seen = model if isinstance(model, Followed) else followed(model)
    integer = set(integer_operations(seen.folded.graph))
    return tuple(_operation(node, seen, node in integer) for node in _running(seen.folded.graph))


def _running(graph: fx.Graph) -> Iterator[fx.Node]:
    fused = {clamp_behind(node) for node in graph.nodes}
    return (node for node in graph.nodes if node.op == "call_function" and computes_tensors(node) and node not in fused)


def clamp_behind(node: fx.Node) -> fx.Node | None:
    """The clamp that runtimes compute together with this operation, if there is one."""
    if not traits_of(node) & (Trait.LAYER | Trait.OF_TWO | Trait.AVERAGE | Trait.WINDOW) or len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    return reader if traits_of(reader) & Trait.CLAMP else None


def _operation(node: fx.Node, seen: Followed, integer: bool) -> FoldedOperation:  # noqa: FBT001 - a fact of the node
    read = [each for each in node.all_input_nodes if each.op != "get_attr" and each in seen.shapes]
    inputs = tuple(seen.shapes[each] for each in read)
    if not inputs and node.target is operator.getitem:
        inputs = ((),)
    clamp, layer, traits = clamp_behind(node), layer_at(node), traits_of(node)
    held = [each for each in node.all_input_nodes if each.op == "get_attr"]
    named = {layer.weight, layer.bias} if layer else set()
    plain = FoldedOperation(
        name=node.name,
        path=layer_path(node).partition("@")[0],
        kind=kind_of(node),
        inputs=inputs,
        output=seen.shapes.get(node, ()),
        constants=tuple(seen.shapes[each] for each in held if each.target not in named),
        activation="" if clamp is None else _clamped(clamp),
        traits=traits,
        integer=integer,
        table=lookup.weight if (lookup := lookup_at(node)) else "",
    )
    if layer is None:
        return _with_window(plain, node)
    shape = seen.shapes[next(each for each in held if each.target == layer.weight)]
    weighted = replace(plain, weight=layer.weight, weight_shape=shape, bias=layer.bias, transposed=layer.transposed)
    return _with_geometry(weighted, node)


def _clamped(clamp: fx.Node) -> str:
    """The name of the clamp; a relu and a relu6 have theirs, however they are written."""
    told = arguments_of(clamp)
    high = next((told[name] for name in ("max", "max_val") if name in told), None)
    if kind_of(clamp) in ("relu", "relu6") or lowest(clamp) != 0:
        return kind_of(clamp)
    return "relu" if high is None else f"relu{high:g}" if high == 6 else kind_of(clamp)


def _with_geometry(layer: FoldedOperation, node: fx.Node) -> FoldedOperation:
    """A convolution with its stride, padding and dilation, one number a dimension."""
    kernel = [extent.size for extent in layer.weight_shape[2:]]
    if not kernel:
        return layer
    told, rank = arguments_of(node), len(kernel)
    dilation = _each(told["dilation"], rank)
    if told["padding"] == "same":
        padding = tuple(step * (size - 1) // 2 for step, size in zip(dilation, kernel, strict=True))
    else:
        padding = _each(0 if told["padding"] == "valid" else told["padding"], rank)
    return replace(layer, stride=_each(told["stride"], rank), padding=padding, dilation=dilation)


def _with_window(operation: FoldedOperation, node: fx.Node) -> FoldedOperation:
    """A pool with its kernel, stride and padding."""
    told = arguments_of(node)
    if "kernel_size" not in told:
        return operation
    rank = len(node.meta["val"].shape) - 2
    window = _each(told["kernel_size"], rank)
    stride = _each(told["stride"], rank) if told.get("stride") else window
    return replace(operation, window=window, stride=stride, padding=_each(told.get("padding", 0), rank))


def _each(value: Any, rank: int) -> tuple[int, ...]:  # noqa: ANN401 - a number or a list, as torch takes it
    numbers = [value] if isinstance(value, int) else list(value)
    return tuple(numbers * rank if len(numbers) == 1 else numbers)
