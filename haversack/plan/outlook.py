"""Outlook: what could be had beside the answer, and how good predictions were, from all that a run has learned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from haversack.limits import LIMITS
from haversack.plan.frontier import FrontierRow, LimitPrice, Prediction
from haversack.plan.goal import Goal, noise
from haversack.plan.learning import Built, Draft, learned
from haversack.plan.solve import frontier, solve
from haversack.plan.space import FORBIDDEN, Space
from haversack.recipe import Recipe

_POINTS_A_NAT = 0.3
"""How far a score falls for a nat that is lost, as long as nothing was built: about so far for ResNet-20."""
_LEAST = 0.03
"""And where a score has risen by what was built: chance, since nothing is won by losing."""
_RUINED = 0.5
"""Rows that are predicted to keep a smaller share of the score are of use to nobody."""
_UNLIMITED = ("flash_bytes", "instructions", "latency_ratio", "latency_ms")
"""What a frontier is drawn over where nothing is limited."""
_LOOSER = 0.01


@dataclass(frozen=True)
class Outlook:
    """The spaces with what was built in them, and what the run is after; recipes go on from `start`."""

    spaces: Sequence[Space]
    built: Sequence[Built]
    goal: Goal
    start: Recipe

    @property
    def points_a_nat(self) -> float:
        """How far the score falls for a nat that is lost, by least squares over what was built.

        Small losses move a score less than chance does, so where its chance is known the usual rate is believed in
        against them, as if it were as uncertain as it is large.
        """
        before = self.goal.baseline.measurement.score
        pairs = [
            (each.loss, before.value - each.candidate.measurement.score.value)
            for each in self.built
            if before is not None and each.candidate.measurement.score is not None
        ]
        known = before is not None and before.low is not None
        prior = (noise(self.goal.baseline) / _POINTS_A_NAT) ** 2 if known else 0.0
        squares = sum(loss * loss for loss, _ in pairs) + prior
        slope = (sum(loss * fall for loss, fall in pairs) + prior * _POINTS_A_NAT) / squares if squares else 0.0
        return max(slope, _LEAST) if known else slope if slope > 0 else _POINTS_A_NAT

    def drafts(self) -> Iterator[Draft]:
        """The plans that are predicted to lose least for what they need, in every format."""
        return (draft for space in self.spaces for draft in self._drafts(space))

    def row(self, draft: Draft) -> FrontierRow:
        """What is predicted of a plan, its score too."""
        return FrontierRow(draft.recipe, self._predicted(draft))

    def _drafts(self, space: Space) -> Iterator[Draft]:
        problem = space.believing(learned([each for each in self.built if each.space == space.name]))
        measures = [name for name in self.goal.predictable(problem.measures) or _UNLIMITED if name in problem.measures]
        for solution in frontier(problem, {}, measures):
            recipe = space.recipe(solution.chosen, self.start)
            draft = Draft(space, solution.chosen, recipe, solution.loss + space.lost, solution.figures)
            if recipe != self.start and solution.loss < FORBIDDEN and self._is_of_use(self._predicted(draft)):
                yield draft

    def _predicted(self, draft: Draft) -> dict[str, float]:
        before = self.goal.baseline.measurement.score
        score = {} if before is None else {"score": before.value - self.points_a_nat * draft.loss}
        return {**draft.figures, **score}

    def _is_of_use(self, predicted: dict[str, float]) -> bool:
        before = self.goal.baseline.measurement.score
        return before is None or predicted["score"] >= before.value - _RUINED * abs(before.value)

    def predictions(self) -> Iterator[Prediction]:
        """What was predicted of each candidate when it was chosen, beside what it was measured at."""
        for each in self.built:
            recipe = each.candidate.recipe
            for measure, predicted in each.foretold.items():
                true = each.true(measure)
                if true is not None:
                    yield Prediction(recipe, measure, predicted, true)

    def prices(self, space: Space, limits: dict[str, float]) -> Iterator[LimitPrice]:
        """How far the score would rise for 1 % more of each limit."""
        problem = space.believing(learned([each for each in self.built if each.space == space.name]))
        solution = solve(problem, limits, priced=True)
        names = {limit.field: limit.name for limit in LIMITS}
        for field, fall in solution.prices.items():
            if solution.feasible and fall > 0:
                yield LimitPrice(names[field], _LOOSER * limits[field], fall * self.points_a_nat)
