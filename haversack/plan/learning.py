"""Learning: by what predictions are off, read off the candidates that were built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from haversack.limits import LIMITS
from haversack.measurement import Candidate
from haversack.plan.space import Beliefs, Chosen, Space
from haversack.recipe import Recipe

LOSS = "loss"
_PRIOR = 0.05
"""How much a common factor of one, and each technique's being the common one, are believed in, against one candidate
that was built: it keeps few from telling too much."""
_MOST = 10.0
"""A factor lies between this and its inverse."""


@dataclass(frozen=True)
class Built:
    """A plan's candidate beside what was predicted of it, before any correction."""

    space: str
    candidate: Candidate
    losses: Mapping[str, float]
    """By technique, in nats."""
    figures: Mapping[str, float]
    """By measure."""
    foretold: Mapping[str, float] = field(default_factory=dict)
    """What was believed of it when it was chosen: the figures after all corrections, and `loss`."""

    @property
    def loss(self) -> float:
        """What it truly loses, in nats; the prediction where nobody measured it."""
        fidelity = self.candidate.measurement.fidelity
        known = fidelity.divergence if fidelity else None
        return sum(self.losses.values()) if known is None else known

    def true(self, measure: str) -> float | None:
        """What a measure, or the loss, was measured at; None where it was not, or only in part."""
        if measure == LOSS:
            fidelity = self.candidate.measurement.fidelity
            return fidelity.divergence if fidelity else None
        limit = next((each for each in LIMITS if each.field == measure), None)
        figure = self.candidate.measurement.figure(limit) if limit else None
        return None if figure is None or figure.part else figure.worst


@dataclass(frozen=True)
class Draft:
    """A plan that was solved for, with what it is predicted to lose and to cost."""

    space: Space
    chosen: Chosen
    recipe: Recipe
    loss: float
    figures: Mapping[str, float]

    def built(self, candidate: Candidate) -> Built:
        """The candidate that was built of it, beside what was predicted without any correction."""
        chosen = self.space.said(self.chosen)
        figures, foretold = self.space.problem.figures(chosen), {**self.figures, LOSS: self.loss}
        return Built(self.space.name, candidate, self.space.losses_of(chosen), figures, foretold)


def learned(built: Sequence[Built]) -> Beliefs:
    """The factors with which the predictions come closest to what was measured; none where nothing was built."""
    return Beliefs(_of_losses(built), _of_measures(built))


def _of_losses(built: Sequence[Built]) -> dict[str, float]:
    """One factor a technique, by least squares of the relative errors, held near the one that fits all of them best.

    A technique that was not built yet has that one: that inputs which score move further than those that were learned
    from is true of all. Left at one it would seem better than what is known, for no other reason.
    """
    names = sorted({name for each in built for name in each.losses})
    known = [each for each in built if each.loss > 0 and any(loss > 0 for loss in each.losses.values())]
    if not known:
        return {}
    rows = np.array([[each.losses.get(name, 0.0) / each.loss for name in names] for each in known])
    common = (rows.sum() + _PRIOR) / ((rows.sum(1) ** 2).sum() + _PRIOR)
    squares = rows.T @ rows + _PRIOR * np.eye(len(names))
    wanted = rows.T @ np.ones(len(known)) + _PRIOR * common
    factors = np.clip(np.linalg.solve(squares, wanted), 1 / _MOST, _MOST)
    return dict(zip(names, factors.tolist(), strict=True))


def _of_measures(built: Sequence[Built]) -> dict[str, float]:
    """One factor a measure: that of the last candidate, since the next one is near it."""
    factors: dict[str, float] = {}
    for each in built:
        for name, predicted in each.figures.items():
            true = each.true(name)
            if true and predicted > 0:
                factors[name] = true / predicted
    return factors
