"""Allocate: one option a site under a budget, with the least loss (a knapsack of multiple choice, Sinha 1979).

Costs and losses have to add up. Where what one site saves depends on the others, as channel counts do, or what is lost
does, as removed layers do, it is another problem.

`plan/solve.py` is the planner's, for any such problem and several limits at once, and within about 1 %. This one is
exact, for one limit and sums alone; techniques use it, below the planner, and in tests it is an oracle of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

_STATES = 1 << 15
_ROUNDING = 1e-12
Numbers = NDArray[np.float64]


class Priced(Protocol):
    """An option: what it takes of the budget, and what is lost by it."""

    @property
    def cost(self) -> float:
        """What it takes; less than nothing where it saves."""
        ...

    @property
    def loss(self) -> float:
        """What is lost by it."""
        ...


Option = TypeVar("Option", bound=Priced)


def allocate(sites: Sequence[Sequence[Option]], limit: float) -> list[Option]:
    """One option of each site, of the least sum of losses whose costs add up to at most `limit`.

    Sites are added one by one, and of the partial sums those are kept that no other one beats in both cost and loss.
    That is exact up to 32768 of them. Where there are more, one is kept, which loses least, of those whose costs differ
    by less than 1 / 32768 of the room, which is what `limit` leaves above the cheapest options. So nothing that costs
    `room * sites / 32768` less than `limit` loses less than the answer. Where even the cheapest options cost more than
    `limit`, these are the answer.
    """
    offered = [_unbeaten(options) for options in sites]
    cheapest = [options[0].cost for options in offered]
    room = limit - sum(cheapest) + _ROUNDING * max(1.0, abs(limit))
    costs, losses, steps = np.zeros(1), np.zeros(1), list[tuple[NDArray[np.int64], NDArray[np.int64]]]()
    for options, least in zip(offered, cheapest, strict=True):
        dearer = np.array([each.cost - least for each in options])
        lost = np.nan_to_num(np.array([each.loss for each in options]), nan=np.inf)
        sums, totals = (costs[:, None] + dearer).ravel(), (losses[:, None] + lost).ravel()
        kept = _kept(sums, totals, room)
        steps.append((kept // len(options), kept % len(options)))
        costs, losses = sums[kept], totals[kept]
    chosen, state = list[Option](), len(costs) - 1
    for options, (before, taken) in zip(reversed(offered), reversed(steps), strict=True):
        chosen.append(options[taken[state]])
        state = before[state]
    return chosen[::-1]


def _unbeaten(options: Sequence[Option]) -> list[Option]:
    """The options that lose less than all that cost no more, cheapest first."""
    unbeaten: list[Option] = []
    for each in sorted(options, key=lambda one: (one.cost, one.loss)):
        if not unbeaten or each.loss < unbeaten[-1].loss:
            unbeaten.append(each)
    return unbeaten


def _kept(costs: Numbers, losses: Numbers, room: float) -> NDArray[np.int64]:
    """The places of the sums to go on from, ascending in cost and falling in loss."""
    order = np.lexsort((losses, costs))
    order = order[: max(1, int(np.searchsorted(costs[order], room, side="right")))]
    fallen = np.minimum.accumulate(losses[order])
    order = order[np.concatenate(([True], fallen[1:] < fallen[:-1]))]
    if len(order) <= _STATES:
        return order
    bucket = np.floor(costs[order] / room * _STATES)
    return order[np.concatenate((bucket[1:] > bucket[:-1], [True]))]
