"""Search: which recipe to measure next, given what was found.

`greedy` asks by yielding a Trial and is told by being sent the Candidate, or the Refusal of a step. It knows techniques
only as steps with a stage, settings and, where they train, `epochs`.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import groupby

from haversack.device import Budget
from haversack.measurement import Candidate, Figure, Miss
from haversack.recipe import Recipe, Stage, Step, technique

_WORTH_IT = 0.02
"""A measure has moved when it fell by this share: less is within what a layout or a rerun changes."""


@dataclass(frozen=True)
class Trial:
    """A recipe to measure. Without `scored` only size and speed are wanted, for which its skeleton is enough."""

    recipe: Recipe
    scored: bool = True


@dataclass(frozen=True)
class Verdict:
    """What became of one tried recipe, and why."""

    candidate: Candidate
    kept: bool
    why: str


@dataclass(frozen=True)
class Refusal:
    """A recipe that a step refused, and why; `too_strong` where a milder setting may do."""

    recipe: Recipe
    why: str
    too_strong: bool = False


@dataclass(frozen=True)
class Found:
    """The end of a search: the best candidate, what it still misses, and everything that was tried."""

    best: Candidate
    misses: tuple[Miss, ...]
    verdicts: tuple[Verdict, ...]
    refusals: tuple[Refusal, ...] = ()


Answer = Candidate | Refusal
Search = Generator[Trial, Answer, Found]


def greedy(
    options: Sequence[Sequence[Step]], budget: Budget, baseline: Candidate, start: Candidate | None = None
) -> Search:
    """The mildest recipe that meets the budget: first what needs no training, then the least of what does.

    `options` holds one sequence of steps a technique, mildest first. Training is spent only on a recipe whose size and
    speed were measured to fit. When nothing meets the budget, the candidate that misses least is found.

    All recipes go on from `start`, a student that takes the original's place, where there is one; the `baseline` is
    what scores are held against. Steps that only recover are tried last, on what misses nothing but the score.
    """
    run = _Run(budget, baseline, start or baseline)
    if budget.update_bytes is None:
        # Zeros and shared values make the coded file smaller, and nothing else.
        options = [steps for steps in options if steps and steps[0].stage != Stage.SPARSITY]
    recoveries = [steps for steps in options if steps and steps[0].stage == Stage.RECOVER]
    options = [steps for steps in options if steps not in recoveries]
    for steps in _by_cost(options, trains=False):
        yield from run.best_of(steps)
    for _, techniques in groupby(_by_cost(options, trains=True), key=lambda steps: steps[0].stage):
        rivals = list(techniques)
        for before in run.starts():
            if run.misses(run.best):
                yield from run.least_of(rivals, before)
    for steps in recoveries:
        yield from run.recover(steps)
    return run.found()


@dataclass(frozen=True)
class _Fit:
    """A ladder of settings after `start`, and the place on it from which on size and speed fit."""

    start: Recipe
    ladder: Sequence[Step]
    place: int
    family: tuple[int, ...]
    """Which of the rival techniques take part."""
    rank: tuple[float, float] = (0.0, 0.0)
    """How the mildest one that fits does before training; less is better."""


class _Run:
    """What a search knows so far. `best` was scored, so that further steps may build on it."""

    def __init__(self, budget: Budget, baseline: Candidate, start: Candidate) -> None:
        self.budget, self.baseline, self.start, self.best = budget, baseline, start, start
        self.verdicts: list[Verdict] = []
        self.refusals: list[Refusal] = []
        if start is not baseline:
            self.verdicts.append(Verdict(start, kept=True, why=f"the start: {_gain(baseline, start)}"))

    def misses(self, candidate: Candidate) -> tuple[Miss, ...]:
        score = self.baseline.measurement.score
        return candidate.measurement.misses(self.budget, score.value if score else None)

    def starts(self) -> tuple[Candidate, ...]:
        """What to train from: the best so far, but first the start where the best has lost too much score."""
        if self.best is not self.start and self._misses_score(self.best):
            return (self.start, self.best)
        return (self.best,)

    def found(self) -> Found:
        """The best candidate, or the nearest one; steps that it lacks were not kept."""
        best = self.best
        if self.misses(best):
            # A dry run that misses nothing is no answer: nobody knows its score.
            tried = (verdict.candidate for verdict in self.verdicts if self.misses(verdict.candidate))
            best = min((best, *(each for each in tried if moved(best, each, self.budget))), key=self._rank)
        verdicts = tuple(self._final(verdict, best) for verdict in self.verdicts)
        return Found(best, self.misses(best), verdicts, tuple(self.refusals))

    def ask(self, trial: Trial) -> Generator[Trial, Answer, Answer]:
        """What comes of a trial; refusals are written down."""
        answer = yield trial
        if isinstance(answer, Refusal):
            self.refusals.append(answer)
        return answer

    def best_of(self, steps: Sequence[Step]) -> Generator[Trial, Answer, None]:
        """Tries every setting of a step that needs no training; keeps the best one that pays."""
        if self.best is not self.baseline and not self.misses(self.best):
            return
        before, tried = self.best, []
        for step in steps:
            found = yield from self.ask(Trial(before.recipe.then(step)))
            if isinstance(found, Candidate):
                tried.append(found)
        paying = [each for each in tried if self._pays(before, each)]
        winner = min(paying, key=self._rank, default=None)
        for each in tried:
            self.verdicts.append(Verdict(each, each is winner, self._reason(before, each, winner)))
        self.best = winner or before

    def least_of(self, rivals: Sequence[Sequence[Step]], before: Candidate) -> Generator[Trial, Answer, None]:
        """Trains the setting whose size and speed fit and that scores best untrained, then what is next best.

        `rivals` are techniques of one stage. Each is tried alone at its mildest setting that fits, and the two best
        together. A stronger setting of the same is trained only where size or speed are missed still.
        """
        fits: list[_Fit] = []
        for family, steps in enumerate(rivals):
            for ladder in _ladders(steps):
                fits += yield from self._fitting(_Fit(before.recipe, ladder, 0, (family,)), before)
        if len(fits) > 1 or len(rivals) > 1:
            fits = yield from self._ranked(fits)
        if len(rivals) > 1:
            mixed = yield from self._mixed(fits, rivals, before)
            fits = sorted([*fits, *(yield from self._ranked(mixed))], key=lambda fit: fit.rank)
        for fit in _one_each(fits):
            yield from self._trained(fit, before)
            if not self.misses(self.best):
                return

    def _fitting(self, fit: _Fit, before: Candidate) -> Generator[Trial, Answer, list[_Fit]]:
        """The fit with the place of its mildest step whose size and speed are met, by bisection; none where none is."""
        fitting, first, last = None, 0, len(fit.ladder) - 1
        while first <= last:
            middle = (first + last) // 2
            recipe = fit.start.then(fit.ladder[middle]).skeleton(done=self.start.recipe.steps)
            dry = yield from self.ask(Trial(recipe, scored=False))
            if isinstance(dry, Refusal):
                first, last = (first, middle - 1) if dry.too_strong else (middle + 1, last)
                continue
            misses = self.misses(dry)
            why = f"misses {misses[0]}" if misses else "fits"
            self.verdicts.append(Verdict(dry, False, f"untrained, to see its size and speed: {why}"))
            if misses or not moved(before, dry, self.budget):
                first = middle + 1
            else:
                fitting, last = middle, middle - 1
        return [] if fitting is None else [replace(fit, place=fitting)]

    def _ranked(self, fits: Sequence[_Fit]) -> Generator[Trial, Answer, list[_Fit]]:
        """The fits with their ranks, best first."""
        ranked = []
        for fit in fits:
            recipe = fit.start.then(fit.ladder[fit.place]).untrained(done=self.start.recipe.steps)
            candidate = yield from self.ask(Trial(recipe))
            if isinstance(candidate, Refusal):
                continue
            self.verdicts.append(Verdict(candidate, False, "untrained, to choose between settings that fit"))
            ranked.append(replace(fit, rank=self._rank(candidate)))
        return sorted(ranked, key=lambda fit: fit.rank)

    def _mixed(
        self, ranked: Sequence[_Fit], rivals: Sequence[Sequence[Step]], before: Candidate
    ) -> Generator[Trial, Answer, list[_Fit]]:
        """The two best techniques together: the better one half as strong as it would have to be alone."""
        best = {fit.family[0]: fit for fit in reversed(ranked)}
        first, second = list(dict.fromkeys([*(fit.family[0] for fit in ranked), *range(len(rivals))]))[:2]
        if first not in best:
            half = _ladders(rivals[first])[0][-1]
        elif best[first].place:
            half = best[first].ladder[best[first].place // 2]
        else:
            return []
        ladder = best[second].ladder if second in best else _ladders(rivals[second])[0]
        start = before.recipe.then(_untrained(half))
        return (yield from self._fitting(_Fit(start, ladder, 0, (first, second)), before))

    def _trained(self, fit: _Fit, before: Candidate) -> Generator[Trial, Answer, None]:
        """Trains the mildest step that fits, and stronger ones where it still misses size or speed."""
        for step in fit.ladder[fit.place :]:
            trained = yield from self.ask(Trial(fit.start.then(step)))
            if isinstance(trained, Refusal):
                continue
            misses = self.misses(trained)
            why = f"misses {misses[0]}" if misses else _gain(before, trained)
            self.verdicts.append(Verdict(trained, not misses, why))
            self.best = min(self.best, trained, key=self._rank)
            if not misses or self._misses_score(trained):
                return

    def recover(self, steps: Sequence[Step]) -> Generator[Trial, Answer, None]:
        """Wins back score where nothing else is missed: the mildest step that is enough, or the one that does best."""
        before = self.best
        for step in steps:
            if {miss.limit for miss in self.misses(self.best)} != {"score"}:
                return
            found = yield from self.ask(Trial(before.recipe.then(step)))
            if isinstance(found, Refusal):
                continue
            pays = self._distance(found) < self._distance(self.best) and _score(found) > _score(self.best)
            why = f"score {_score(found) - _score(before):+.4f}"
            self.verdicts.append(Verdict(found, pays, why))
            if pays:
                self.best = found

    def _misses_score(self, candidate: Candidate) -> bool:
        return any(miss.limit == "score" for miss in self.misses(candidate))

    def _pays(self, before: Candidate, after: Candidate) -> bool:
        return moved(before, after, self.budget) and self._distance(after) <= self._distance(before)

    def _distance(self, candidate: Candidate) -> float:
        return sum(miss.share for miss in self.misses(candidate))

    def _rank(self, candidate: Candidate) -> tuple[float, float]:
        return self._distance(candidate), -_score(candidate)

    def _reason(self, before: Candidate, candidate: Candidate, winner: Candidate | None) -> str:
        if candidate is winner:
            return _gain(before, candidate)
        if not moved(before, candidate, self.budget):
            return "no measure moved"
        return "another setting does better" if self._pays(before, candidate) else "misses more"

    def _final(self, verdict: Verdict, best: Candidate) -> Verdict:
        misses = self.misses(verdict.candidate)
        if not verdict.kept or not misses or all(step in best.recipe.steps for step in verdict.candidate.recipe.steps):
            return verdict
        return Verdict(verdict.candidate, False, f"undone: misses {misses[0]}")


def moved(before: Candidate, after: Candidate, budget: Budget) -> bool:
    """Whether a limited measure fell noticeably; any of size and speed where the budget limits neither."""
    old, new = before.measurement, after.measurement
    size = _fell(old.flash_bytes, new.flash_bytes)
    memory = _fell(old.ram_bytes, new.ram_bytes)
    speed = _fell(old.latency_ratio, new.latency_ratio)
    link = _fell(old.update_bytes, new.update_bytes)
    limited = [
        (budget.flash_bytes, size),
        (budget.ram_bytes, memory),
        (budget.latency_ms or budget.latency_ratio or budget.energy_mj, speed),
        (budget.update_bytes, link),
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


def _score(candidate: Candidate) -> float:
    score = candidate.measurement.score
    return score.value if score else -math.inf


def _untrained(step: Step) -> Step:
    return Recipe((step,)).untrained().steps[0]


def _one_each(ranked: Sequence[_Fit]) -> list[_Fit]:
    """The best of each technique and mixture."""
    best: dict[tuple[int, ...], _Fit] = {}
    for fit in ranked:
        best.setdefault(fit.family, fit)
    return list(best.values())


def _ladders(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """Runs of steps that differ in their first setting only, which is their strength."""
    ladders: list[list[Step]] = []
    for step in steps:
        if ladders and _same_but_strength(ladders[-1][-1], step):
            ladders[-1].append(step)
        else:
            ladders.append([step])
    return list(ladders)


def _same_but_strength(one: Step, other: Step) -> bool:
    _, *rest = fields(one)  # type: ignore[arg-type]
    return all(getattr(one, each.name) == getattr(other, each.name) for each in rest)


def _by_cost(options: Sequence[Sequence[Step]], *, trains: bool) -> list[Sequence[Step]]:
    """The techniques that train (or do not), those that keep the structure first."""
    chosen = [steps for steps in options if steps and (getattr(steps[0], "epochs", 0) > 0) == trains]
    return sorted(chosen, key=lambda steps: (-steps[0].stage, technique(steps[0])))
