"""Search: which recipe to measure next, given what was found.

`greedy` asks by yielding a Trial and is told by being sent the Candidate. It knows techniques only as steps with a
stage, settings and, where they train, `epochs`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields

from haversack.device import Budget
from haversack.measurement import Candidate, Figure, Miss
from haversack.recipe import Recipe, Step, technique

_WORTH_IT = 0.02
"""A measure has moved when it fell by this share: less is within what a layout or a rerun changes."""


@dataclass(frozen=True)
class Trial:
    """A recipe to measure. Without `scored` only size and speed are wanted, which need no training."""

    recipe: Recipe
    scored: bool = True


@dataclass(frozen=True)
class Verdict:
    """What became of one tried recipe, and why."""

    candidate: Candidate
    kept: bool
    why: str


@dataclass(frozen=True)
class Found:
    """The end of a search: the best candidate, what it still misses, and everything that was tried."""

    best: Candidate
    misses: tuple[Miss, ...]
    verdicts: tuple[Verdict, ...]


Search = Generator[Trial, Candidate, Found]


def greedy(options: Sequence[Sequence[Step]], budget: Budget, baseline: Candidate) -> Search:
    """The mildest recipe that meets the budget: first what needs no training, then the least of what does.

    `options` holds one sequence of steps a technique, mildest first. Training is spent only on a recipe whose size and
    speed were measured to fit.
    """
    run = _Run(budget, baseline)
    for steps in _by_cost(options, trains=False):
        yield from run.best_of(steps)
    for steps in _by_cost(options, trains=True):
        if not run.misses(run.best):
            break
        yield from run.least_of(steps)
    return Found(run.best, run.misses(run.best), tuple(run.verdicts))


class _Run:
    """What a search knows so far."""

    def __init__(self, budget: Budget, baseline: Candidate) -> None:
        self.budget, self.baseline, self.best = budget, baseline, baseline
        self.verdicts: list[Verdict] = []

    def misses(self, candidate: Candidate) -> tuple[Miss, ...]:
        score = self.baseline.measurement.score
        return candidate.measurement.misses(self.budget, score.value if score else None)

    def best_of(self, steps: Sequence[Step]) -> Generator[Trial, Candidate, None]:
        """Tries every setting of a step that needs no training; keeps the best one that pays."""
        if self.best is not self.baseline and not self.misses(self.best):
            return
        tried = []
        for step in steps:
            tried.append((yield Trial(self.best.recipe.then(step))))
        paying = [
            each
            for each in tried
            if moved(self.best, each, self.budget) and self._distance(each) <= self._distance(self.best)
        ]
        winner = min(paying, key=self._rank, default=None)
        for each in tried:
            self.verdicts.append(Verdict(each, each is winner, self._reason(each, winner)))
        self.best = winner or self.best

    def least_of(self, steps: Sequence[Step]) -> Generator[Trial, Candidate, None]:
        """Finds the mildest setting of each ladder whose size and speed fit; trains the one that scores best untrained,
        and stronger ones where it still misses.
        """  # noqa: D205 - one sentence
        before, starts = self.best, []
        for ladder in _ladders(steps):
            fitting = yield from self._mildest(ladder, before)
            if fitting is not None:
                dry = yield Trial(before.recipe.then(ladder[fitting]).untrained())
                starts.append((self._rank(dry), ladder[fitting:]))
        if not starts:
            self._nearest(before)
            return
        _, chosen = min(starts, key=lambda start: start[0])
        for step in chosen:
            trained = yield Trial(before.recipe.then(step))
            misses = self.misses(trained)
            self.best = trained
            self.verdicts.append(Verdict(trained, not misses, f"misses {misses[0]}" if misses else _gain(before, trained)))
            if not misses or any(miss.limit == "score" for miss in misses):
                return

    def _mildest(self, ladder: Sequence[Step], before: Candidate) -> Generator[Trial, Candidate, int | None]:
        """The place of the mildest step whose size and speed fit, by bisection; None where even the strongest misses."""
        fitting, first, last = None, 0, len(ladder) - 1
        while first <= last:
            middle = (first + last) // 2
            dry = yield Trial(before.recipe.then(ladder[middle]).untrained(), scored=False)
            misses = self.misses(dry)
            why = f"misses {misses[0]}" if misses else "fits"
            self.verdicts.append(Verdict(dry, False, f"size and speed only: {why}"))
            if misses or not moved(before, dry, self.budget):
                first = middle + 1
            else:
                fitting, last = middle, middle - 1
        return fitting

    def _nearest(self, before: Candidate) -> None:
        """Nothing fits: the candidate that misses least is what the error will name."""
        pool = [before, *(verdict.candidate for verdict in self.verdicts)]
        self.best = min(pool, key=self._distance)

    def _distance(self, candidate: Candidate) -> float:
        return sum(abs(miss.found / miss.allowed - 1) for miss in self.misses(candidate))

    def _rank(self, candidate: Candidate) -> tuple[float, float]:
        score = candidate.measurement.score
        return self._distance(candidate), -(score.value if score else 0.0)

    def _reason(self, candidate: Candidate, winner: Candidate | None) -> str:
        if candidate is winner:
            return _gain(self.best, candidate)
        if not moved(self.best, candidate, self.budget):
            return "no measure moved"
        return "another setting scored better" if winner else "misses more"


def moved(before: Candidate, after: Candidate, budget: Budget) -> bool:
    """Whether a limited measure fell noticeably; any of size and speed where the budget limits neither."""
    old, new = before.measurement, after.measurement
    size = _fell(old.flash_bytes, new.flash_bytes)
    memory = _fell(old.ram_bytes, new.ram_bytes)
    speed = _fell(old.latency_ratio, new.latency_ratio)
    limited = [
        (budget.flash_bytes, size),
        (budget.ram_bytes, memory),
        (budget.latency_ms or budget.latency_ratio or budget.energy_mj, speed),
    ]
    wanted = [fell for limit, fell in limited if limit is not None]
    return any(wanted) if wanted else size or speed


def _fell(old: Figure | None, new: Figure | None) -> bool:
    return old is not None and new is not None and new.value < old.value * (1 - _WORTH_IT)


def _gain(before: Candidate, after: Candidate) -> str:
    old, new = before.measurement, after.measurement
    parts = [f"flash x{new.flash_bytes.value / old.flash_bytes.value:.2f}"]
    if old.latency_ratio and new.latency_ratio:
        parts.append(f"latency x{new.latency_ratio.value / old.latency_ratio.value:.2f}")
    return ", ".join(parts)


def _ladders(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """Runs of steps that differ from one to the next in one setting, its strength."""
    ladders: list[list[Step]] = []
    for step in steps:
        if ladders and _differences(ladders[-1][-1], step) <= 1:
            ladders[-1].append(step)
        else:
            ladders.append([step])
    return list(ladders)


def _differences(one: Step, other: Step) -> int:
    return sum(getattr(one, each.name) != getattr(other, each.name) for each in fields(one))  # type: ignore[arg-type]


def _by_cost(options: Sequence[Sequence[Step]], *, trains: bool) -> list[Sequence[Step]]:
    """The techniques that train (or do not), those that keep the structure first."""
    chosen = [steps for steps in options if steps and (getattr(steps[0], "epochs", 0) > 0) == trains]
    return sorted(chosen, key=lambda steps: (-steps[0].stage, technique(steps[0])))
