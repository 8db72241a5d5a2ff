"""Allocate: which factors each layer gets, so that the network reaches a cost with the least loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haversack.model import Layer
from haversack.numerics.factors.method import Ranks


@dataclass(frozen=True)
class Choice:
    """One way to write a layer: its cost over the layer as it is, a share of the network's; its loss, of its output."""

    method: str
    ranks: Ranks
    layers: tuple[Layer, ...]
    cost: float = 0.0
    loss: float = 0.0


def frontier(choices: Sequence[Choice]) -> list[Choice]:
    """The lower convex hull of loss over cost, dearest first: no mixture of other choices beats one of these."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda each: (-each.cost, each.loss)):
        if hull and choice.cost == hull[-1].cost:
            continue
        while hull and choice.loss <= hull[-1].loss:
            hull.pop()
        while len(hull) > 1 and _slope(hull[-1], choice) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(choice)
    return hull


def allocated(layers: Sequence[Sequence[Choice]], goal: float) -> list[Choice]:
    """One choice a layer, so that the network costs at most `goal` of what it did, or as little as is in reach.

    One choice of each layer is the layer as it is, which costs 0. Always takes the step that loses least for what it
    saves, then takes those back that turn out not to be needed, latest first.
    """
    hulls = [frontier(choices) for choices in layers]
    steps, taken = [0] * len(hulls), []
    while _cost(hulls, steps) > goal + 1e-9:
        open_ = [place for place, hull in enumerate(hulls) if steps[place] + 1 < len(hull)]
        if not open_:
            break
        place = min(open_, key=lambda each: _slope(*hulls[each][steps[each] : steps[each] + 2]))
        steps[place] += 1
        taken.append(place)
    for place in reversed(taken):
        steps[place] -= 1
        if _cost(hulls, steps) > goal + 1e-9:
            steps[place] += 1
    return [hull[step] for hull, step in zip(hulls, steps, strict=True)]


def _cost(hulls: Sequence[Sequence[Choice]], steps: Sequence[int]) -> float:
    return 1 + sum(hull[step].cost for hull, step in zip(hulls, steps, strict=True))


def _slope(dear: Choice, cheap: Choice) -> float:
    return (cheap.loss - dear.loss) / (dear.cost - cheap.cost)
