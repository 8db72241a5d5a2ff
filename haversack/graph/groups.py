"""Groups: which channels of a network must be removed together, read off its graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor, fx, nn

from haversack.graph.channel_book import Assumption, Atoms, Book, Dims, Operation, Value
from haversack.graph.channel_group import ChannelGroup, Groups, Member, Pinned
from haversack.graph.channel_rules import follow
from haversack.graph.channel_trial import Foretold, at_stake, refuted, trials
from haversack.graph.surgery import edits_for
from haversack.graph.trace import Trace

__all__ = ["ChannelGroup", "Groups", "Member", "Pinned", "channel_groups", "components"]


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
    or flattened channels be pruned. Where it depends on the code whether sizes follow (reshapes, splits, attention
    heads), the network is pruned a little and traced again; what does not follow is pinned, and so are operations that
    nobody knows.
    """
    return channel_reading(trace, module).found


@dataclass(frozen=True)
class Reading:
    """What holds of a network: all operations noted in the book, and the atoms of weights and values.

    Atoms with equal `roots` are one channel.
    """

    book: Book
    weights: Mapping[tuple[str, int], Atoms]
    values: Mapping[fx.Node, Value]
    roots: Atoms
    found: Groups


def channel_reading(trace: Trace, module: nn.Module) -> Reading:
    """The groups of a network together with what they were read off."""
    choices: dict[str, int] = {}
    while True:
        book = Book(choices)
        weights, values = follow_all(trace, module, book)
        roots = components(book.count, book.same)
        reasons = _reasons(book, roots)
        reading = Reading(book, weights, values, roots, _found(book, weights, roots, reasons))
        wrong = _refuted(trace, module, reading, at_stake(book.assumed, roots, set(reasons)))
        if not wrong:
            return reading
        choices |= {site: choices.get(site, 0) + 1 for site in wrong}


def _reasons(book: Book, roots: Atoms) -> dict[int, str]:
    """Why the channels that must stay must."""
    reasons: dict[int, str] = {}
    for atoms, why in book.pinned:
        for root in np.unique(roots[atoms]).tolist():
            reasons.setdefault(root, why)
    return reasons


def _found(book: Book, weights: Mapping[tuple[str, int], Atoms], roots: Atoms, reasons: Mapping[int, str]) -> Groups:
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


def _refuted(
    trace: Trace, module: nn.Module, reading: Reading, staked: Mapping[fx.Node, list[Assumption]]
) -> set[str]:
    """The sites of the code that do not do what the reading assumes."""
    groups = reading.found.groups
    for kept in trials(groups) if staked and groups else ():
        gone = {
            int(reading.roots[reading.weights[first.tensor, first.dim][first.indices[channel][0]]])
            for group, stay in zip(groups, kept, strict=True)
            for first in group.members[:1]
            for channel in set(range(group.size)) - set(stay)
        }
        foretold = Foretold(reading.values, staked, frozenset(gone), reading.roots)
        if wrong := refuted(trace, module, edits_for(module, groups, kept), foretold):
            return wrong
    return set()


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


def follow_all(
    trace: Trace, module: nn.Module, book: Book
) -> tuple[dict[tuple[str, int], Atoms], dict[fx.Node, Value]]:
    """The atoms of each dimension of each weight and of each value, all operations noted in the book."""
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
    return weights, values


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
