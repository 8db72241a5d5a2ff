"""The planner's plans for many limits on size and time at once, coarse ones first; each that is built corrects it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner_truth import Method, Tried

from haversack.measurement import Candidate, Figure, Measurement
from haversack.plan.learning import Built, learned
from haversack.plan.solve import least_relaxation, solve
from haversack.plan.space import Beliefs, Chosen, Space
from haversack.recipe import Recipe

MEASURES = ("flash_bytes", "latency_ratio")
LOST = {"loss": 8.0}
"""In nats, as the losses of single choices add up; what remains together is a fraction of it where so much is lost."""
REFINEMENTS = 6
STEPS = (1, 2, 4, 8, 16)


def planned(space: Space, baseline: Measurement) -> Method:
    """Plans that lose least, within limits on bytes and time that lie evenly between those of int8 and the least."""
    built, asked = list[Built](), set[Chosen]()
    nothing = (0,) * len(space.sites)
    space.pricing.refine(nothing)
    most = space.problem.figures(nothing)
    least = {name: least_relaxation(space.problem, {name: 0.0, **LOST})[name] for name in MEASURES}
    for shares in ((0.0, 0.0), *levels()):
        limits = {
            name: most[name] * (least[name] / most[name]) ** share for name, share in zip(MEASURES, shares, strict=True)
        }
        plan = nothing if not any(shares) else _solved(space, learned(built), limits)
        if plan is not None and plan not in asked:
            asked.add(plan)
            built.append(_built(space, (yield plan), baseline))


def levels() -> Iterator[tuple[float, float]]:
    """The points of a square but for its origin: its corners, then those halfway between, and so on."""
    met = {(0.0, 0.0)}
    for steps in STEPS:
        points = [(one / steps, other / steps) for one in range(steps + 1) for other in range(steps + 1)]
        fresh = sorted(set(points) - met, key=lambda point: (abs(point[0] - point[1]), point))
        met.update(fresh)
        yield from fresh


def _solved(space: Space, beliefs: Beliefs, limits: dict[str, float]) -> Chosen | None:
    """What loses least within the limits; None where that loses too much."""
    for _ in range(REFINEMENTS):
        solution = solve(space.believing(beliefs), {**limits, **LOST})
        if not solution.feasible:
            return None
        if not space.pricing.refine(solution.chosen):
            break
    return space.said(solution.chosen)


def _built(space: Space, tried: Tried, baseline: Measurement) -> Built:
    """What was tried, beside what was predicted of it."""
    recipe, problem = space.recipe(tried.plan, Recipe()), space.problem
    true = replace(
        baseline,
        flash_bytes=Figure(tried.flash_bytes, "host"),
        latency_ratio=Figure(tried.ratio, "host"),
    )
    losses = space.losses_of(tried.plan)
    return Built(space.name, Candidate(recipe, true), losses, problem.figures(tried.plan))
