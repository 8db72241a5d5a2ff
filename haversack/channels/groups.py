"""Groups: which channels of a network must be removed together, read off its graph.

Atoms that are one channel are a class; classes of equal build are a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from haversack.channels.book import Assumption, Atoms, Book, ChannelOperation, Dims, Value
from haversack.channels.group import ChannelGroup, Groups, Member, Pinned, edits_for
from haversack.channels.shapes import follow
from haversack.channels.trial import Foretold, at_stake, in_vain, refuted, trials
from haversack.graph.run import named_tensors
from haversack.graph.trace import Trace

Place = tuple[str, int]


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


def reasons_to_stay(book: Book, roots: Atoms) -> dict[int, str]:
    """Why the channels that must stay must, by their first atom."""
    reasons: dict[int, str] = {}
    for atoms, why in book.pinned:
        for root in np.unique(roots[atoms]).tolist():
            reasons.setdefault(root, why)
    return reasons


def grouped(book: Book, weights: Mapping[Place, Atoms], roots: Atoms, reasons: Mapping[int, str]) -> Groups:
    """All channels that some layer makes: in groups of equal build, or pinned."""
    layers: dict[int, str] = {}
    for atoms, layer in book.produced:
        for root in np.unique(roots[atoms]).tolist():
            layers.setdefault(root, layer)
    free = [root for root in layers if root not in reasons]
    numbers = np.full(len(roots), -1, dtype=np.int64)
    numbers[free] = np.arange(len(free))
    slices = {place: each for place, atoms in weights.items() if len((each := _slices(numbers[roots[atoms]])).channels)}
    paired = np.zeros(len(free), dtype=bool)
    for atoms in book.paired:
        paired[numbers[roots[atoms]][numbers[roots[atoms]] >= 0]] = True
    columns = {int(atoms[0]) for atoms in book.read if len(atoms)}
    reads = {place for place, atoms in weights.items() if len(atoms) and int(atoms[0]) in columns}
    found = list(_groups(_alike(slices, paired), slices, reads))
    names = _names([layers[free[first]] for first, _ in found])
    groups = tuple(
        ChannelGroup(name, members, 2 if paired[first] else 1)
        for name, (first, members) in zip(names, found, strict=True)
    )
    return Groups(groups, tuple(_stay(layers, reasons)))


def _names(layers: Sequence[str]) -> Iterator[str]:
    """The layers' paths; those of a layer that makes several groups are numbered from the second on."""
    met: dict[str, int] = {}
    for layer in layers:
        met[layer] = met.get(layer, 0) + 1
        yield f"{layer}#{met[layer]}" if met[layer] > 1 else layer


@dataclass(frozen=True)
class _Slices:
    """Where in one dimension of a tensor the channels lie: channel i at `places[starts[i]:starts[i] + counts[i]]`."""

    channels: Atoms
    places: Atoms
    starts: Atoms
    counts: Atoms

    def of(self, channels: Atoms) -> Atoms:
        """The slices of channels that have equally many, one row each."""
        rows = np.searchsorted(self.channels, channels)
        taken: Atoms = self.places[self.starts[rows, None] + np.arange(self.counts[rows[0]])]
        return taken


def _slices(channels: Atoms) -> _Slices:
    places = np.flatnonzero(channels >= 0)
    places = places[np.argsort(channels[places], kind="stable")]
    return _Slices(*_unique(channels[places], places))


def _unique(ordered: Atoms, places: Atoms) -> tuple[Atoms, Atoms, Atoms, Atoms]:
    found, starts, counts = np.unique(ordered, return_index=True, return_counts=True)
    return found, places, starts, counts


def _alike(slices: Mapping[Place, _Slices], paired: NDArray[np.bool_]) -> list[Atoms]:
    """The channels that lie in the same dimensions equally often, found by a sum of hashes; several each."""
    builds = paired.astype(np.uint64)
    for number, each in enumerate(slices.values()):
        builds[each.channels] += _hash(each.counts.astype(np.uint64) + np.uint64(number << 32))
    _, first, group = np.unique(builds, return_index=True, return_inverse=True)
    order = np.argsort(group, kind="stable")
    classes = np.split(order, np.cumsum(np.bincount(group))[:-1]) if len(order) else []
    return [classes[place] for place in np.argsort(first) if len(classes[place]) > 1]


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits well mixed (splitmix64, Steele et al. 2014)."""
    values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed


def _groups(
    classes: Sequence[Atoms], slices: Mapping[Place, _Slices], reads: set[Place]
) -> Iterator[tuple[int, tuple[Member, ...]]]:
    """The first channel of each class, and the members of its group, channels in the order of the first of them."""
    members: dict[int, list[Member]] = {}
    ordered: dict[int, Atoms] = {}
    group_of = {int(channel): place for place, each in enumerate(classes) for channel in each}
    for place, each in slices.items():
        for group in sorted({group_of[channel] for channel in each.channels.tolist() if channel in group_of}):
            channels = ordered.get(group)
            if channels is None:
                channels = classes[group]
                channels = ordered[group] = channels[np.argsort(each.of(channels)[:, 0])]
            indices = tuple(map(tuple, each.of(channels).tolist()))
            members.setdefault(group, []).append(Member(*place, indices, place in reads))
    for group, channels in enumerate(classes):
        yield int(channels[0]), tuple(members[group])


def _stay(layers: Mapping[int, str], reasons: Mapping[int, str]) -> Iterator[Pinned]:
    counts: dict[tuple[str, str], int] = {}
    for root, layer in layers.items():
        if root in reasons:
            key = layer, reasons[root]
            counts[key] = counts.get(key, 0) + 1
    for (layer, reason), channels in counts.items():
        yield Pinned(layer, reason, channels)


__all__ = ["ChannelGroup", "Groups", "Member", "Pinned", "channel_groups", "components"]


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
        reasons = reasons_to_stay(book, roots)
        reading = Reading(book, weights, values, roots, grouped(book, weights, roots, reasons))
        staked = at_stake(book.assumed, roots, set(reasons))
        wrong = in_vain(book.assumed, staked) or _refuted(trace, module, reading, staked)
        if not wrong:
            return reading
        choices |= {site: choices.get(site, 0) + 1 for site in wrong}


def _refuted(trace: Trace, module: nn.Module, reading: Reading, staked: Mapping[fx.Node, list[Assumption]]) -> set[str]:
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


def follow_all(
    trace: Trace, module: nn.Module, book: Book
) -> tuple[dict[tuple[str, int], Atoms], dict[fx.Node, Value]]:
    """The atoms of each dimension of each weight and of each value, all operations noted in the book."""
    ours = set(named_tensors(module))
    weights: dict[tuple[str, int], Atoms] = {}
    values: dict[fx.Node, Value] = {}
    for node in trace.graph.nodes:
        if node.op == "placeholder":
            values[node] = _placeholder(trace, node, ours, weights, book)
        elif node.op == "call_function" and _is_tensor(node.meta.get("val")):
            values[node] = follow(ChannelOperation(node, module, values, book))
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
