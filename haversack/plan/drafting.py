"""Drafting: one plan on paper, for limits that leave room for what predictions are off by."""

from __future__ import annotations

from collections.abc import Collection

from haversack.plan.goal import Goal
from haversack.plan.solve import Solution, solve
from haversack.plan.space import Beliefs, Space

MARGIN = 0.02
"""Plans are made for limits that are tighter by this share: predictions are as far off as that."""
_REFINEMENTS = 6


def planned(space: Space, beliefs: Beliefs, limits: dict[str, float], held: Collection[int] = ()) -> Solution:
    """The plan that loses least within the limits, as it is believed; nothing is done at the sites that are `held`."""
    for _ in range(_REFINEMENTS):
        solution = solve(space.believing(beliefs).holding(held), limits)
        if not space.pricing.refine(solution.chosen):
            break
    return solution


def within_margin(goal: Goal, space: Space) -> dict[str, float]:
    """The limits of size, memory and time that can be predicted in a space, less the margin."""
    asked = goal.predictable(space.problem.measures)
    return {name: allowed * (1 - MARGIN) for name, allowed in asked.items()}
