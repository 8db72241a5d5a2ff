"""Ladder: how many channels each group may keep, and which counts lose least for what they save."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import nn

from haversack.graph.channel_cost import Counts
from haversack.graph.groups import ChannelGroup
from haversack.graph.importance import Ranking, Scores
from haversack.graph.named_tensors import named_tensors

# (group, rung it stands on, cost that the step saves) -> what the step costs; the lowest is taken.
Price = Callable[[int, int, float], float]
# More rungs a group than this are climbed no better, only slower.
_RUNGS = 32


class Cost(Protocol):
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
    cost: Cost

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
        return [sorted(each.order[len(each.order) - count :]) for each, count in zip(rankings, counts, strict=True)]

    def descend(self, keep: float, price: Price) -> list[int]:
        """The rung of each group at which the cost is just below `keep`.

        Always takes the step of the lowest price; then takes those back that turn out not to be needed, dearest first.
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
