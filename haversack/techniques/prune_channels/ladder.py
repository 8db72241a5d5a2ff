"""Ladder: how many channels each group may keep, what that costs or takes, and which counts lose least for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import nn

from haversack.channels.cost import Counts
from haversack.channels.group import edits_for
from haversack.channels.groups import ChannelGroup
from haversack.errors import HaversackError
from haversack.graph.run import named_tensors
from haversack.model import Model, Target
from haversack.surgery.edit import edit
from haversack.techniques.prune_channels.importance import Ranking, Scores

# (group, rung it stands on, cost that the step saves) -> what the step costs; the lowest is taken.
Price = Callable[[int, int, float], float]
# More rungs a group than this are climbed no better, only slower.
_RUNGS = 32


class CostOfCounts(Protocol):
    """What a network costs for each choice of channel counts: multiply-accumulates, parameters or milliseconds."""

    def of(self, kept: Counts) -> float:
        """The cost when group i keeps `kept[i]` of its channels."""
        ...

    def savings(self, kept: Counts, fewer: Counts) -> NDArray[np.float64]:
        """How much cheaper it gets when group i alone loses `fewer[i]` more."""
        ...


@dataclass(frozen=True)
class Ladder:
    """How many channels each group may keep, most first, and what that costs."""

    groups: Sequence[ChannelGroup]
    rungs: Sequence[Sequence[int]]
    cost: CostOfCounts

    @property
    def smallest(self) -> float:
        """The smallest fraction of the cost in reach."""
        return self.cost.of(self.counts([-1] * len(self.rungs))) / self.cost.of(self.counts([0] * len(self.rungs)))

    def counts(self, steps: Sequence[int]) -> Counts:
        """The channel counts on these rungs."""
        return np.array([rungs[step] for rungs, step in zip(self.rungs, steps, strict=True)], dtype=np.int64)

    def losses(self, place: int, ranking: Ranking) -> Scores:
        """What each rung of a group loses against the one before it."""
        gone = [self.groups[place].size - count for count in self.rungs[place]]
        return np.diff(np.array(ranking.losses)[gone])

    def kept(self, steps: Sequence[int], rankings: Sequence[Ranking]) -> list[list[int]]:
        """The channels of each group that stay on these rungs: those that go last."""
        counts = self.counts(steps).tolist()
        return [each.left(count) for each, count in zip(rankings, counts, strict=True)]

    def descend(self, keep: float, price: Price) -> list[int]:
        """The rung of each group at which the cost is just below `keep`.

        Always takes the step of the lowest price; then takes those back that turn out not to be needed, dearest first.
        What a step saves depends on how many channels the other groups keep, and prices need not be losses: this is no
        knapsack (see allocate.py).
        """
        steps = [0] * len(self.rungs)
        target = keep * self.cost.of(self.counts(steps))
        taken: list[int] = []
        while self.cost.of(self.counts(steps)) > target:
            place = self._cheapest(steps, price)
            steps[place] += 1
            taken.append(place)
        for place in reversed(taken):
            steps[place] -= 1
            if self.cost.of(self.counts(steps)) > target:
                steps[place] += 1
        return steps

    def _cheapest(self, steps: list[int], price: Price) -> int:
        kept = self.counts(steps)
        below = self.counts([min(step + 1, len(rungs) - 1) for step, rungs in zip(steps, self.rungs, strict=True)])
        saved = self.cost.savings(kept, kept - below)
        # Blocked kernels: a step that saves nothing by itself may open the way for another one. Dear, not impossible.
        least = max(float(saved.max()) * 1e-9, 1e-12)
        return min(
            np.flatnonzero(kept > below).tolist(),
            key=lambda place: price(place, steps[place], max(float(saved[place]), least)),
        )


def rungs(module: nn.Module, group: ChannelGroup, multiple: int, min_share: float) -> list[int]:
    """The counts that a group may keep: whole multiples for the layer that makes it, about 32 steps at most."""
    first = group.members[0]
    width = named_tensors(module)[first.tensor].shape[first.dim]
    taken = len(first.indices[0])
    fitting = (gone for gone in range(1, group.size) if (width - gone * taken) % multiple == 0)
    start, floor = next(fitting, group.size), max(group.least, math.ceil(min_share * group.size))
    if width < multiple:
        return [group.size]
    pitch = multiple // math.gcd(multiple, taken)
    pitch *= max(1, group.size // (_RUNGS * pitch))
    return [group.size, *range(group.size - start, floor - 1, -pitch)]


# Latency between two counts is taken to be a line: so many counts of each group are timed, the whole one besides.
_TIMED = 2
# A search asks for many fractions of one network.
_measured: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], MeasuredCost]] = WeakKeyDictionary()


@dataclass(frozen=True)
class MeasuredCost:
    """Milliseconds a sample: what the whole network takes, less what each group saves by itself.

    `counts` and `saved` hold, for each group, the numbers of channels that were timed, ascending, and the milliseconds
    that they save.
    """

    whole_ms: float
    counts: tuple[tuple[int, ...], ...]
    saved: tuple[tuple[float, ...], ...]

    def of(self, kept: Counts) -> float:
        """The latency when group i keeps `kept[i]` of its channels."""
        return self.whole_ms - sum(self._saved(place, int(count)) for place, count in enumerate(kept))

    def savings(self, kept: Counts, fewer: Counts) -> NDArray[np.float64]:
        """How much faster it gets when group i alone loses `fewer[i]` more."""
        pairs = enumerate(zip(kept.tolist(), fewer.tolist(), strict=True))
        return np.array([self._saved(place, left - less) - self._saved(place, left) for place, (left, less) in pairs])

    def _saved(self, place: int, count: int) -> float:
        return float(np.interp(count, self.counts[place], self.saved[place]))


def measured_cost(model: Model, groups: Sequence[ChannelGroup], rungs: Sequence[Sequence[int]]) -> MeasuredCost:
    """The latency model of a network, from the device's runtime: each group is timed alone at a few of its counts.

    Which channels go makes no difference to the time: the last ones do. More channels are never taken to be faster, so
    that noise saves nothing. What was timed once for a network is not timed again.
    """
    if model.target is None:
        raise HaversackError("there is no runtime to measure on.", mend="prune by macs, or give a device.")
    known = _measured.setdefault(model.module, {})
    asked = (repr(model.target), tuple(map(tuple, rungs)))
    if asked not in known:
        known[asked] = _measure(model, model.target, groups, rungs)
    return known[asked]


def _measure(
    model: Model, target: Target, groups: Sequence[ChannelGroup], rungs: Sequence[Sequence[int]]
) -> MeasuredCost:
    timed = [_timed(each) for each in rungs]
    tried = [_with_fewer(model, groups, place, count) for place, few in enumerate(timed) for count in few]
    whole, *times = target.latencies_ms([model, *tried])
    counts, saved = [], []
    for group, few in zip(groups, timed, strict=True):
        spans = [whole - times.pop(0) for _ in few]
        counts.append((*reversed(few), group.size))
        saved.append((*np.maximum.accumulate([0.0, *spans])[:0:-1].tolist(), 0.0))
    return MeasuredCost(whole, tuple(counts), tuple(saved))


def _timed(rungs: Sequence[int]) -> list[int]:
    """A few of the rungs below the whole group, evenly spread, the lowest among them; descending."""
    places = np.linspace(0, len(rungs) - 1, _TIMED + 1).round().astype(int)[1:]
    return [rungs[place] for place in np.unique(places[places > 0])]


def _with_fewer(model: Model, groups: Sequence[ChannelGroup], place: int, count: int) -> Model:
    kept = [range(count if place == other else group.size) for other, group in enumerate(groups)]
    edits = edits_for(model.module, groups, kept)
    return model.with_module(edit(model.module, edits), edits)
