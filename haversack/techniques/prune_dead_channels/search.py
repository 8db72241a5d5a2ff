"""Dead: the channels of a network that can go while its outputs stay as they are.

A channel may go when every layer that reads it does without: because the layer multiplies it by nothing, because it
always holds the same number, which the layer's bias can hold as well, or because its map, which padding makes vary
from place to place but never from input to input, is a sum of maps of channels that stay (its carriers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from haversack.channels.book import operation_name
from haversack.channels.group import ChannelGroup
from haversack.graph.run import named_tensors
from haversack.graph.trace import arguments_of
from haversack.techniques.prune_dead_channels.constants import Seen
from haversack.techniques.prune_dead_channels.reads import Read, Reads

Reals = NDArray[np.float64]
_PLAIN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)


@dataclass(frozen=True)
class Shift:
    """Where a layer takes one more number for each of its outputs.

    `kind` is "bias", or "mean" for the batch norm behind the layer, whose `tensor` is named; or "layer" for one without
    a bias, which has to be given one.
    """

    kind: str
    tensor: str


@dataclass(frozen=True)
class SeenLayer:
    """A layer that reads, what it sees, and what can be done about it.

    `weighs[i, j]` bounds what column i adds to output j. Only columns that are `frozen` have a map. `open` says whether
    the weight may be changed, `shift` where constants go, None where they cannot.
    """

    read: Read
    maps: Reals
    frozen: NDArray[np.bool_]
    weighs: Reals
    open: bool
    shift: Shift | None


@dataclass(frozen=True)
class Dead:
    """Channels that can go, and those that stay and carry the maps of others."""

    places: tuple[SeenLayer, ...]
    gone: frozenset[int]
    carriers: frozenset[int]

    def kept(self, reads: Reads, multiple: int = 1) -> list[list[int]]:
        """Which channels of each group stay, so that the layers that make them keep a multiple of `multiple`.

        Dead channels fill up to that, once nothing reads them.
        """
        groups = zip(reads.groups, reads.widths, reads.of, strict=True)
        return [self._filled(group, width, of.tolist(), multiple) for group, width, of in groups]

    def _filled(self, group: ChannelGroup, width: int, roots: Sequence[int], multiple: int) -> list[int]:
        dead = [channel for channel, root in enumerate(roots) if root in self.gone]
        taken = len(group.members[0].indices[0])
        fitting = (count for count in range(len(dead), 0, -1) if (width - count * taken) % multiple == 0)
        going = set(dead[len(dead) - next(fitting, 0) :])
        return [channel for channel in range(group.size) if channel not in going]


def find_dead(reads: Reads, seen: Mapping[fx.Node, Seen], module: nn.Module, tolerance: float) -> Dead:
    """The channels that can go; nothing that a layer sees of them is then off by more than `tolerance`."""
    known = [read for read in reads.reads if read.node in seen]
    places = tuple(_place(read, seen[read.node], reads, module, tolerance) for read in known)
    search = _Search(places, reads, tolerance)
    if len(places) == len(reads.reads):
        while search.drop_unread() or search.drop_frozen():
            pass
    return Dead(places, frozenset(search.gone), frozenset(search.carriers))


def _place(read: Read, seen: Seen, reads: Reads, module: nn.Module, tolerance: float) -> SeenLayer:
    mine = slice(read.inputs.start, read.inputs.stop)
    weight = named_tensors(module)[read.weight].detach().double()
    taps = read.columns(weight).abs().flatten(2).sum(2) if weight.dim() > 2 else read.columns(weight).abs()
    changeable = read.weight not in reads.shared
    return SeenLayer(
        read=read,
        maps=seen.maps[mine].numpy(),
        frozen=(seen.spread[mine] <= tolerance).numpy(),
        weighs=(seen.largest[mine, None] * taps).numpy(),
        open=changeable,
        shift=_shift(read, reads, module) if changeable and _sees_all(read.node) else None,
    )


def _sees_all(layer: fx.Node) -> bool:
    """Whether a constant channel adds the same number everywhere: no zeros are padded around it."""
    arguments = arguments_of(layer)
    if operation_name(layer) == "linear":
        return True
    weight = arguments["weight"].meta["val"]
    if operation_name(layer).startswith("conv_transpose"):
        return False
    padding = arguments["padding"]
    if isinstance(padding, str):
        return padding == "valid" or all(size == 1 for size in weight.shape[2:])
    return not any([padding] if isinstance(padding, int) else padding)


def _shift(read: Read, reads: Reads, module: nn.Module) -> Shift | None:
    ours = named_tensors(module).keys() - reads.shared
    if read.bias:
        return Shift("bias", read.bias) if read.bias in ours else None
    if read.mean in ours:
        return Shift("mean", read.mean)
    plain = bool(read.layer) and type(module.get_submodule(read.layer)) in _PLAIN
    return Shift("layer", read.layer) if plain else None


class _Search:
    """Channels dropped one after the other, as long as the layers that read them do without."""

    def __init__(self, places: Sequence[SeenLayer], reads: Reads, tolerance: float) -> None:
        self.places, self.tolerance = places, tolerance
        self.group = {root: group for group, of in enumerate(reads.of) for root in of.tolist()}
        self.room = [group.size - group.least for group in reads.groups]
        self.waiting = dict.fromkeys(root for root in self.group if root not in reads.elsewhere)
        self.gone: set[int] = set()
        self.carriers: set[int] = set()
        self.columns: dict[int, list[tuple[int, int]]] = {}
        for index, place in enumerate(places):
            for column, root in enumerate(place.read.channels.tolist()):
                self.columns.setdefault(root, []).append((index, column))
        self.rests = [_rest(place) for place in places]
        self.left = [np.abs(rest).max(1, initial=0.0) for rest in self.rests]
        for root in self.columns.keys() - self.waiting.keys():
            self._carry(root)

    def drop_unread(self) -> bool:
        """Drops what no layer multiplies by anything; whether there was any."""
        weighs = self._weighs()
        found = [root for root in self.waiting if not self._read(root, weighs)]
        return self._drop(found)

    def drop_frozen(self) -> bool:
        """Drops what layers can do without once they know it; some stay as carriers. Whether any could go."""
        weighs = self._weighs()
        reading = {root: self._read(root, weighs) for root in self.waiting}
        frozen = {
            root: read for root, read in reading.items() if all(self.places[at].frozen[column] for at, column in read)
        }
        while frozen:
            most = max(frozen, key=lambda root: self._left(frozen[root]))
            if self._left(frozen[most]) <= self.tolerance:
                break
            self._carry(most)
            del frozen[most]
        return self._drop(frozen)

    def _left(self, columns: Iterable[tuple[int, int]]) -> float:
        """The largest number that carriers and biases do not make up for."""
        return max((float(self.left[at][column]) for at, column in columns), default=0.0)

    def _weighs(self) -> list[Reals]:
        """What each column of each place adds at most to an output that stays."""
        gone = np.array(sorted(self.gone), dtype=np.int64)
        return [place.weighs[:, ~np.isin(place.read.outputs, gone)].max(1, initial=0.0) for place in self.places]

    def _read(self, root: int, weighs: list[Reals]) -> list[tuple[int, int]]:
        """The columns that take the channel in and count."""
        return [(at, column) for at, column in self.columns.get(root, ()) if weighs[at][column] > self.tolerance]

    def _carry(self, root: int) -> None:
        """Lets the channel stay; where it is known, others may be made of it."""
        self.waiting.pop(root, None)
        for at, column in self.columns.get(root, ()):
            if self.places[at].open and self.left[at][column] > self.tolerance:
                self.carriers.add(root)
                direction = self.rests[at][column] / np.linalg.norm(self.rests[at][column])
                self.rests[at] -= np.outer(self.rests[at] @ direction, direction)
                self.left[at] = np.abs(self.rests[at]).max(1, initial=0.0)

    def _drop(self, roots: Iterable[int]) -> bool:
        before = len(self.gone)
        for root in roots:
            if self.room[self.group[root]]:
                self.room[self.group[root]] -= 1
                self.gone.add(root)
                del self.waiting[root]
        return len(self.gone) > before


def _rest(place: SeenLayer) -> Reals:
    """What of each known map is not a constant that goes to the bias; zero for what is not known."""
    maps = np.where(place.frozen[:, None], place.maps, 0.0)
    return maps - maps.mean(1, keepdims=True) if place.shift else maps
