"""Atoms of channels, and the book of which of them are one.

Every index of every dimension of every weight is an atom. Rules read one operation of the exported graph each, note
which atoms are one and the same channel and which must stay, and say which atoms each dimension of the result
carries; None is a dimension that never shrinks (batch, space, tokens).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haversack.graph.trace import layer_path

Atoms = NDArray[np.int64]
Dims = tuple[Atoms | None, ...]
Value = Dims | list[Dims]
# A batch size that divides nothing, to follow reshapes with: sizes that depend on the batch become multiples of it.
ODD_BATCH = 1_000_003
_FRAME = re.compile(r'File "(.+?)", line (\d+)')


@dataclass(frozen=True)
class Assumption:
    """That the code at `site` counts `atoms` anew wherever it runs, instead of spelling their number."""

    site: str
    atoms: Atoms
    more: bool
    """Whether the site can be read in another way still."""


@dataclass
class Book:
    """What the rules have noted so far."""

    choices: Mapping[str, int] = field(default_factory=dict)
    """Which of its readings each site of the code is given; the first where it is not named."""
    count: int = 0
    same: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    pinned: list[tuple[Atoms, str]] = field(default_factory=list)
    produced: list[tuple[Atoms, str]] = field(default_factory=list)
    read: list[Atoms] = field(default_factory=list)
    """Columns of weights that a product sums over: there, channels are taken in."""
    paired: list[Atoms] = field(default_factory=list)
    """Channels of grouped convolutions: two a group must stay, since one would read as depthwise."""
    assumed: dict[fx.Node, list[Assumption]] = field(default_factory=dict)
    """The operations that keep channels apart only if the code reads shapes off its tensors."""
    columns: dict[int, tuple[Atoms, Atoms | None]] = field(default_factory=dict)
    """All rows of a linear layer and its columns, by the first row."""

    def fresh(self, size: int) -> Atoms:
        """New atoms, related to nothing yet."""
        self.count += size
        return np.arange(self.count - size, self.count, dtype=np.int64)

    def unite(self, ours: Atoms | None, theirs: Atoms | None, why: str) -> None:
        """Position by position, both are one channel; what meets a fixed dimension must stay."""
        if ours is not None and theirs is not None:
            self.same.append((ours, theirs))
        else:
            self.pin(theirs if ours is None else ours, f"tied to a dimension of fixed size ({why})")

    def pin(self, atoms: Atoms | None, why: str) -> None:
        """These must stay."""
        if atoms is not None:
            self.pinned.append((atoms, why))

    def contract(self, ours: Atoms | None, weight: Atoms | None, why: str) -> None:
        """The product sums over both: one channel each, taken in by the weight."""
        self.unite(ours, weight, why)
        if weight is not None:
            self.read.append(weight)

    def merge(self, rows: Atoms) -> Atoms:
        """The first of several rows, after those below each of its atoms were united with it."""
        first: Atoms = rows[0]
        self.same += [(first, row) for row in rows[1:]]
        return first

    def interleave(self, atoms: Atoms | None, groups: int) -> Atoms | None:
        """The first group's atoms, each united with those at its place in the other groups."""
        if atoms is None:
            return None
        return self.merge(atoms.reshape(groups, -1))


@dataclass(frozen=True)
class ChannelOperation:
    """One operation: its node, the network it belongs to, the atoms of every earlier value, and the book."""

    node: fx.Node
    module: nn.Module
    values: Mapping[fx.Node, Value]
    book: Book

    @property
    def name(self) -> str:
        """ATen's name without namespace, overload and the underscore of in-place forms."""
        return operation_name(self.node)

    @property
    def layer(self) -> str:
        """The dotted path of the layer whose code this is."""
        return layer_path(self.node).partition("@")[0]

    @property
    def why(self) -> str:
        """The operation and its place, for the reasons of pins."""
        return f"{self.name} in layer {self.layer}" if self.layer else f"{self.name} in the network itself"

    @property
    def site(self) -> str:
        """The line of code that this operation stands on."""
        frames = source_frames(self.node)
        return f"{frames[-1]} {self.name}" if frames else self.node.name

    def reading(self, atoms: Atoms | None, count: int = 1) -> int | None:
        """Which of `count` ways to read a count in the code holds here; None once all were tried and failed."""
        if atoms is None:
            return 0
        chosen = self.book.choices.get(self.site, 0)
        if chosen >= count:
            self.book.pin(atoms, f"the code spells the size: {self.why}")
            return None
        self.book.assumed.setdefault(self.node, []).append(Assumption(self.site, atoms, chosen + 1 < count))
        return chosen

    def argument(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - whatever the operation takes
        """The argument that the operation's schema calls `name`; `default` where it has none."""
        for place, each in enumerate(self.node.target._schema.arguments):  # type: ignore[union-attr]  # noqa: SLF001 - no public reader
            if each.name == name:
                given = self.node.args[place] if place < len(self.node.args) else self.node.kwargs.get(name)
                return each.default_value if given is None else given
        return default

    def dims(self, name: str) -> Dims | None:
        """The atoms of the tensor argument `name`, or None where it is left out."""
        node = self.argument(name)
        return self.of(node) if isinstance(node, fx.Node) else None

    def of(self, node: fx.Node) -> Dims:
        """The atoms of an earlier value."""
        value = self.values.get(node, ())
        return value if isinstance(value, tuple) else ()

    def tensors(self) -> list[fx.Node]:
        """The inputs that are tensors."""
        return [node for node in self.node.all_input_nodes if isinstance(node.meta.get("val"), Tensor)]

    def within(self, kinds: type[nn.Module] | tuple[type[nn.Module], ...]) -> bool:
        """Whether a layer of these types runs this: its attributes follow its weights' shapes."""
        return isinstance(layer_at(self.module, self.layer), kinds)


def source_frames(node: fx.Node) -> list[str]:
    """The lines of code that led to a node, as `file:line`, outermost first."""
    return [f"{file}:{line}" for file, line in _FRAME.findall(node.meta.get("stack_trace") or "")]


def operation_name(node: fx.Node) -> str:
    """ATen's name of a node's operation: `conv2d`; Python's own name where it is no ATen operation."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else getattr(node.target, "__name__", str(node.target))
    return str(name).rpartition("::")[2].rstrip("_")


def sizes(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's result, with a number that divides nothing for the batch."""
    return tuple(_number(size) for size in node.meta["val"].shape)


def unknown(operation: ChannelOperation) -> Value:
    """Fixed dimensions: how this operation treats channels is not known, so all that it touches must stay."""
    pin_all(operation, [], f"{operation.why}: how it uses channels is not known")
    return fixed(operation.node.meta.get("val"))


def pointwise(operation: ChannelOperation) -> Dims:
    """Right-aligned dimensions united, those of size 1 stretched: NumPy's broadcasting."""
    return broadcast(operation, operation.tensors())


def broadcast(operation: ChannelOperation, nodes: Sequence[fx.Node]) -> Dims:
    """The dimensions of the values that `nodes` broadcast to."""
    rank = max((len(sizes(node)) for node in nodes), default=0)
    columns: list[list[tuple[Atoms | None, int]]] = [[] for _ in range(rank)]
    for node in nodes:
        shape = sizes(node)
        for place, each in enumerate(zip(operation.of(node), shape, strict=True), start=rank - len(shape)):
            columns[place].append(each)
    return tuple(united(operation, column) for column in columns)


def united(operation: ChannelOperation, column: list[tuple[Atoms | None, int]]) -> Atoms | None:
    """The atoms of one dimension in which the given ones, with their sizes, meet."""
    wide = [atoms for atoms, size in column if size != 1] or [atoms for atoms, _ in column]
    first = next((atoms for atoms in wide if atoms is not None), None)
    if first is not None:
        for other in wide:
            if other is not first:
                operation.book.unite(first, other, operation.why)
    return first


def same(operation: ChannelOperation) -> Dims:
    """The dimensions of the first input: nothing moves."""
    return operation.of(operation.tensors()[0])


def pin_all(operation: ChannelOperation, results: list[Dims], why: str) -> None:
    """All that goes into the operation and all of `results` must stay."""
    for dims in (*(operation.of(node) for node in operation.tensors()), *results):
        for atoms in dims:
            operation.book.pin(atoms, why)


def fixed(value: object) -> Value:
    """Dimensions without channels for a result like `value`."""
    if isinstance(value, Tensor):
        return (None,) * value.dim()
    return [(None,) * each.dim() if isinstance(each, Tensor) else () for each in value] if _many(value) else ()  # type: ignore[attr-defined]


def _many(value: object) -> bool:
    return isinstance(value, tuple | list)


def _number(size: Any) -> int:  # noqa: ANN401 - int or SymInt
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.xreplace(dict.fromkeys(expression.free_symbols, ODD_BATCH)))


def layer_at(module: nn.Module, path: str) -> nn.Module | None:
    """The layer at a dotted path, if the module has it."""
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None
