"""Trials of what rules assumed about the code: that it counts its channels anew once some are gone.

A graph cannot tell a size that stands in the code from one that the code read off a tensor. So some channels of each
group are removed, and the network is traced again: every value must have the shape that its channels foretell.
"""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx, nn

from haversack.channels.book import Assumption, Atoms, Dims, Value, operation_name, sizes, source_frames
from haversack.channels.group import ChannelGroup
from haversack.errors import TraceError
from haversack.graph.trace import Trace, layer_path, trace
from haversack.model import Edits
from haversack.surgery.edit import edit

# Whoever uses what these make ties it to its own channels or pins them.
_MAKES_CONSTANTS = {"zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "arange"}
# Each is a trace of the whole network.
_MOST_TRIALS = 3


@dataclass(frozen=True)
class Foretold:
    """What the rules read off a graph: the atoms of its values, and which of them are gone in the trial."""

    values: Mapping[fx.Node, Value]
    assumed: Mapping[fx.Node, Sequence[Assumption]]
    gone: frozenset[int]
    roots: Atoms

    def shape(self, node: fx.Node) -> list[tuple[int, ...]]:
        """The sizes of a node's results once channels are gone."""
        value, results = self.values.get(node, ()), node.meta["val"]
        if isinstance(value, tuple):
            return [self._left(value, sizes(node))]
        shapes = [tuple(int(size) if isinstance(size, int) else -1 for size in each.shape) for each in results]
        return [self._left(dims, shape) for dims, shape in zip(value, shapes, strict=True)]

    def start(self, node: fx.Node) -> int | None:
        """Where a slice begins once channels are gone; None for what is no slice of channels."""
        dims = self.values.get(node)
        source = node.args[0]
        if operation_name(node) != "slice" or not isinstance(dims, tuple) or not isinstance(source, fx.Node):
            return None
        dim, begin = (node.args[1] if len(node.args) > 1 else 0), (node.args[2] if len(node.args) > 2 else 0)
        before = self.values.get(source)
        if not isinstance(dim, int) or not isinstance(begin, int) or not isinstance(before, tuple):
            return None
        atoms = before[dim]
        return begin if atoms is None else self._count(atoms[:begin])

    def _left(self, dims: Dims, shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            size if atoms is None else self._count(atoms)
            for atoms, size in zip(dims or (None,) * len(shape), shape, strict=True)
        )

    def _count(self, atoms: Atoms) -> int:
        return sum(root not in self.gone for root in self.roots[atoms].tolist())


def trials(groups: Sequence[ChannelGroup]) -> list[list[list[int]]]:
    """The channels that stay of each group, trial by trial.

    Any two groups of one size differ in some trial, so that none passes for the other.
    """
    counts = Counter(group.size for group in groups)
    needed = max(math.ceil(math.log(count, max(size - 2, 2))) for size, count in counts.items())
    seen: Counter[int] = Counter()
    places = []
    for group in groups:
        places.append(seen[group.size])
        seen[group.size] += 1
    return [
        [_stay(group, _digit(place, trial, group.size - 2)) for place, group in zip(places, groups, strict=True)]
        for trial in range(min(max(needed, 1), _MOST_TRIALS))
    ]


def _digit(number: int, place: int, base: int) -> int:
    """A digit of a number, counted from 1."""
    return 1 + number // base**place % base if base > 1 else 1


def _stay(group: ChannelGroup, gone: int) -> list[int]:
    """All but some from the middle, as far as they may go."""
    gone = min(gone, group.size - group.least)
    first = (group.size - gone) // 2
    return [*range(first), *range(first + gone, group.size)]


def refuted(read: Trace, module: nn.Module, edits: Edits, foretold: Foretold) -> set[str]:
    """The sites whose assumptions do not hold, as far as one trial shows; none where all do."""
    small = edit(module, edits)
    try:
        again = trace(small, read.example)
    except TraceError as error:
        return _behind(_failed(read, error, foretold), foretold)
    wanted, found = list(_results(read)), list(_results(again))
    if [operation_name(node) for node in wanted] != [operation_name(node) for node in found]:
        return _behind(None, foretold)
    for ours, theirs in zip(wanted, found, strict=True):
        if _shapes(theirs) != foretold.shape(ours) or foretold.start(ours) != _start(ours, theirs, foretold):
            return _behind(ours, foretold)
    return set()


def _results(read: Trace) -> Iterator[fx.Node]:
    """The operations that compute tensors."""
    for node in read.operations():
        value = node.meta.get("val")
        if operation_name(node) in _MAKES_CONSTANTS:
            continue
        if isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(isinstance(v, Tensor) for v in value)):
            yield node


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    value = node.meta["val"]
    if isinstance(value, Tensor):
        return [sizes(node)]
    return [tuple(int(size) if isinstance(size, int) else -1 for size in each.shape) for each in value]


def _start(ours: fx.Node, theirs: fx.Node, foretold: Foretold) -> int | None:
    if foretold.start(ours) is None:
        return None
    begin = theirs.args[2] if len(theirs.args) > 2 else 0
    return begin if isinstance(begin, int) else None


def _failed(read: Trace, error: TraceError, foretold: Foretold) -> fx.Node | None:
    """The operation of the first graph that stands where the second one could not be traced."""
    cause = error.__cause__
    frames = traceback.extract_tb(cause.__traceback__ if cause else None)
    for line in reversed([f"{frame.filename}:{frame.lineno}" for frame in frames]):
        nodes = [node for node in _results(read) if source_frames(node)[-1:] == [line]]
        here = [node for node in nodes if (error.where or "") == f"layer {layer_path(node)}"] or nodes
        if here:
            return next((node for node in here if node in foretold.assumed), here[0])
    return None


def _behind(node: fx.Node | None, foretold: Foretold) -> set[str]:
    """The site of the nearest assumption that a node rests on; all sites where none can be told.

    Where that one has no other reading left, an earlier one about the same channels that has is to blame first.
    """
    behind = [each for here in _ancestors(node) for each in foretold.assumed.get(here, ())]
    if not behind:
        return {each.site for assumptions in foretold.assumed.values() for each in assumptions}
    channels = set(foretold.roots[behind[0].atoms].tolist())
    related = (each for each in behind if each.more and not channels.isdisjoint(foretold.roots[each.atoms].tolist()))
    return {next(related, behind[0]).site}


def _ancestors(node: fx.Node | None) -> Iterator[fx.Node]:
    """A node and all that it is made of, nearest first."""
    now = {} if node is None else {node: None}
    seen: set[fx.Node] = set()
    while now:
        yield from now
        seen.update(now)
        now = {source: None for here in now for source in here.all_input_nodes if source not in seen}


def at_stake(
    assumed: Mapping[fx.Node, Sequence[Assumption]], roots: Atoms, pinned: set[int]
) -> dict[fx.Node, list[Assumption]]:
    """The assumptions that channels which may go rest on."""
    free = {
        node: [each for each in assumptions if not set(roots[each.atoms].tolist()) <= pinned]
        for node, assumptions in assumed.items()
    }
    return {node: assumptions for node, assumptions in free.items() if assumptions}


def in_vain(
    assumed: Mapping[fx.Node, Sequence[Assumption]], staked: Mapping[fx.Node, Sequence[Assumption]]
) -> set[str]:
    """The sites that can be read in another way and whose channels must all stay as they are read now."""
    free = {each.site for assumptions in staked.values() for each in assumptions}
    return {each.site for assumptions in assumed.values() for each in assumptions if each.more} - free
