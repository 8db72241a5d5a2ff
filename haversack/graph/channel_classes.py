"""Classes: atoms that are one channel, and channels of equal build, which are a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from haversack.graph.channel_book import Atoms, Book
from haversack.graph.channel_group import ChannelGroup, Groups, Member, Pinned

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
    groups = tuple(
        ChannelGroup(layers[free[first]], members, 2 if paired[first] else 1)
        for first, members in _groups(_alike(slices, paired), slices, reads)
    )
    return Groups(groups, tuple(_stay(layers, reasons)))


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
