"""Groups: channels that must be removed together, and those that must stay, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, fx, nn

from haversack.graph.channel_book import Atoms, Book, Dims, Operation, Value
from haversack.graph.channel_rules import follow
from haversack.graph.trace import Trace


@dataclass(frozen=True)
class Member:
    """A dimension of a tensor that shrinks with a group: `indices[i]` are the slices that channel i takes with it.

    `reads` tells columns, which take the channel in, from rows, which make it.
    """

    tensor: str
    dim: int
    indices: tuple[tuple[int, ...], ...]
    reads: bool = False


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of equal build: each may go, but only with its slices of all members.

    `name` is the path of the layer that makes them; `least` of them must stay.
    """

    name: str
    members: tuple[Member, ...]
    least: int = 1

    @property
    def size(self) -> int:
        """How many channels there are to choose from."""
        return len(self.members[0].indices)


@dataclass(frozen=True)
class Pinned:
    """Channels that must stay, and why."""

    layer: str
    reason: str
    channels: int


@dataclass(frozen=True)
class Groups:
    """All channels of a network: those that can go, and those that must stay."""

    groups: tuple[ChannelGroup, ...]
    pinned: tuple[Pinned, ...]


@dataclass
class _Channel:
    """One channel while it is gathered: its slices by (tensor, dimension)."""

    layer: str
    paired: bool = False
    slices: dict[tuple[str, int], list[int]] = field(default_factory=dict)

    @property
    def build(self) -> tuple[object, ...]:
        """Equal for channels that are interchangeable."""
        return (self.paired, *((key, len(indices)) for key, indices in self.slices.items()))


def channel_groups(trace: Trace, module: nn.Module) -> Groups:
    """The channel groups of `module`, read off its exported graph element by element.

    Two channels belong to one group when the same dimensions of the same tensors depend on them. The idea of
    propagating dependencies through the graph is that of DepGraph (Fang et al. 2023); working on single indices
    instead of layers is what lets a residual stream with padded zero channels (He et al. 2015, option A), concatenated
    or flattened channels be pruned. Sizes that the code spells, attention heads and operations nobody knows are pinned.
    """
    book = Book()
    weights = _read(trace, module, book)
    roots = components(book.count, book.same)
    reasons: dict[int, str] = {}
    for atoms, why in book.pinned:
        for root in np.unique(roots[atoms]).tolist():
            reasons.setdefault(root, why)
    layers: dict[int, str] = {}
    for atoms, layer in book.produced:
        for root in np.unique(roots[atoms]).tolist():
            layers.setdefault(root, layer)
    paired = {root for atoms in book.paired for root in roots[atoms].tolist()}
    channels = {root: _Channel(layer, root in paired) for root, layer in layers.items() if root not in reasons}
    for (tensor, dim), atoms in weights.items():
        for index, root in enumerate(roots[atoms].tolist()):
            if root in channels:
                channels[root].slices.setdefault((tensor, dim), []).append(index)
    columns = {int(atoms[0]) for atoms in book.read if len(atoms)}
    reads = {place for place, atoms in weights.items() if len(atoms) and int(atoms[0]) in columns}
    return Groups(tuple(_grouped(channels, reads)), tuple(_stay(layers, reasons)))


def components(count: int, same: list[tuple[Atoms, Atoms]]) -> Atoms:
    """The smallest atom that each of `count` atoms is connected to by pairs: hook to the smaller root, then jump."""
    label = np.arange(count, dtype=np.int64)
    if not same:
        return label
    left = np.concatenate([pair[0] for pair in same])
    right = np.concatenate([pair[1] for pair in same])
    while True:
        ours, theirs = label[left], label[right]
        apart = ours != theirs
        if not apart.any():
            return label
        left, right = left[apart], right[apart]
        ours, theirs = ours[apart], theirs[apart]
        np.minimum.at(label, np.maximum(ours, theirs), np.minimum(ours, theirs))
        while not np.array_equal(jumped := label[label], label):
            label = jumped


def _read(trace: Trace, module: nn.Module, book: Book) -> dict[tuple[str, int], Atoms]:
    """The atoms of each dimension of each weight, all operations noted in the book."""
    ours = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    ours |= {name for name, _ in module.named_buffers(remove_duplicate=False)}
    weights: dict[tuple[str, int], Atoms] = {}
    values: dict[fx.Node, Value] = {}
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(trace, node, ours, weights, book)
        elif node.op == "call_function" and _is_tensor(node.meta.get("val")):
            values[node] = follow(Operation(node, module, values, book))
        elif node.op == "output":
            for each in node.all_input_nodes:
                value = values.get(each, ())
                for dims in [value] if isinstance(value, tuple) else value:
                    for atoms in dims:
                        book.pin(atoms, "an output of the network")
    return weights


def _placeholder(
    trace: Trace, node: fx.Node, ours: set[str], weights: dict[tuple[str, int], Atoms], book: Book
) -> Dims:
    value, name = node.meta.get("val"), trace.weights.get(node.name)
    if not isinstance(value, Tensor):
        return ()
    if name not in ours or name is None:
        return (None,) * value.dim()
    dims = tuple(book.fresh(size) for size in value.shape)
    weights.update({(name, dim): atoms for dim, atoms in enumerate(dims)})
    return dims


def _is_tensor(value: object) -> bool:
    if isinstance(value, tuple | list):
        return any(isinstance(each, Tensor) for each in value)
    return isinstance(value, Tensor)


def _grouped(channels: dict[int, _Channel], reads: set[tuple[str, int]]) -> Iterator[ChannelGroup]:
    alike: dict[tuple[object, ...], list[_Channel]] = {}
    for channel in channels.values():
        alike.setdefault(channel.build, []).append(channel)
    for same in alike.values():
        if len(same) > 1:
            same.sort(key=lambda channel: next(iter(channel.slices.values())))
            keys = same[0].slices
            members = tuple(Member(*key, tuple(tuple(each.slices[key]) for each in same), key in reads) for key in keys)
            yield ChannelGroup(same[0].layer, members, 2 if same[0].paired else 1)


def _stay(layers: dict[int, str], reasons: dict[int, str]) -> Iterator[Pinned]:
    counts: dict[tuple[str, str], int] = {}
    for root, layer in layers.items():
        if root in reasons:
            key = layer, reasons[root]
            counts[key] = counts.get(key, 0) + 1
    for (layer, reason), channels in counts.items():
        yield Pinned(layer, reason, channels)
