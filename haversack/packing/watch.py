"""Watch: whoever answers a search says where it stands, candidate by candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from haversack.measurement import Candidate
from haversack.plan.found import Answer, Trial
from haversack.plan.goal import Goal
from haversack.progress import Status, phase

_BUILDING = "building candidates"


@dataclass
class Watched:
    """A search's answers, told as they come: what is done now, how many candidates are built, and the best so far."""

    answer: Callable[[Trial], Answer]
    goal: Goal
    about: int | None = None
    """How many candidates are expected."""
    built: int = 0
    scored: list[Candidate] = field(default_factory=list)

    def __call__(self, trial: Trial) -> Answer:
        """The answer to a trial."""
        doing = _doing(trial)
        # What is trained takes longer than what was built before it: its own bar says how long.
        known = doing == _BUILDING and self.about is not None and self.built < self.about
        phase(Status(doing, self.built, self.about if known else None, self._best()))
        told = self.answer(trial)
        if isinstance(told, Candidate):
            self.built += not trial.afresh
            self.scored = [one for one in self.scored if one.recipe != told.recipe] + [told]
        return told

    def _best(self) -> str:
        """The answer as it would be now, or the nearest candidate."""
        if not self.scored:
            return ""
        best = self.goal.answer(self.scored) or min(self.scored, key=self.goal.rank)
        return self.goal.standing(best)


def _doing(trial: Trial) -> str:
    if trial.afresh:
        return "timing the answer afresh"
    if any(step.trains for step in trial.recipe.steps):
        return "training"
    return _BUILDING
