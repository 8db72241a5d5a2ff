"""Search: which recipe to measure next, given what was found.

`greedy` asks by yielding a Trial and is told by being sent the Candidate, or the Refusal of a step. It knows techniques
only as steps (see recipe.Step).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

from haversack.interrupt import heard
from haversack.measurement import Candidate
from haversack.plan.found import Answer, Found, Refusal, Search, Trial, Verdict
from haversack.plan.goal import Goal, noise
from haversack.recipe import Recipe, Stage, Step, technique


def greedy(options: Sequence[Sequence[Step]], goal: Goal, start: Candidate | None = None) -> Search:
    """The mildest recipe that meets the goal: first what needs no training, then the least of what does.

    `options` holds one sequence of steps a technique, mildest first. Training is spent only on a recipe whose size and
    speed were measured to fit. When nothing meets the goal, the candidate that misses least is found, with its score.

    All recipes go on from `start`, a student that takes the original's place, where there is one. Steps that only
    recover are tried last, on what misses nothing but the score. A KeyboardInterrupt that is thrown in ends the search
    with the best candidate so far.
    """
    run = _Run(goal, start or goal.baseline)
    stopped = False
    try:
        yield from _tried(options, run)
    except KeyboardInterrupt:
        heard()
        stopped = True
    yield from run.settle(run.changed())
    if not goal.met(run.best) and not stopped:
        yield from run.score_nearest()
    return run.found(stopped=stopped)


def _tried(options: Sequence[Sequence[Step]], run: _Run) -> Generator[Trial, Answer, None]:
    """Everything that is worth a trial, until the goal is met."""
    if run.goal.budget.update_bytes is None:
        # Zeros and shared values make the coded file smaller, and nothing else.
        options = [steps for steps in options if steps and steps[0].stage != Stage.SPARSITY]
    recoveries = [steps for steps in options if steps and steps[0].stage == Stage.RECOVER]
    options = [steps for steps in options if steps not in recoveries]
    for steps in _by_cost(options, trains=False):
        yield from run.best_of(steps)
    for _, techniques in groupby(_by_cost(options, trains=True), key=lambda steps: steps[0].stage):
        rivals = list(techniques)
        for before in run.starts():
            if not run.goal.met(run.best):
                yield from run.least_of(rivals, before)
    for steps in recoveries:
        yield from run.recover(steps)


@dataclass(frozen=True)
class _Fit:
    """A ladder of settings after `start`, and the place on it from which on size and speed fit."""

    start: Recipe
    ladder: Sequence[Step]
    place: int
    family: tuple[int, ...]
    """Which of the rival techniques take part."""
    untrained: Candidate | None = None
    """The mildest one that fits, before training."""


class _Run:
    """What a search knows so far. `best` was scored, so that further steps may build on it."""

    def __init__(self, goal: Goal, start: Candidate) -> None:
        self.goal, self.start, self.best = goal, start, start
        self.scored = {each.recipe: each for each in (goal.baseline, start)}
        self.afresh = {goal.baseline.recipe}
        """Recipes whose speed was measured once more, or need not be."""
        self.told: dict[Trial, Answer] = {}
        self.bare: dict[Recipe, Recipe] = {}
        """Dry runs, with the recipes that they stand for."""
        self.verdicts: dict[Recipe, Verdict] = {}
        self.refusals: list[Refusal] = []
        if start is not goal.baseline:
            self.judge(start, kept=True, why=f"the start: {goal.gain(goal.baseline, start)}")

    def starts(self) -> tuple[Candidate, ...]:
        """What to train from: the best so far, but first the start where the best has lost too much score."""
        if self.best is not self.start and self.goal.misses_score(self.best):
            return (self.start, self.best)
        return (self.best,)

    def changed(self) -> list[Candidate]:
        """The scored candidates that gain something over the original."""
        baseline = self.goal.baseline
        return [each for each in self.scored.values() if each is not baseline and self.goal.moved(baseline, each)]

    def found(self, *, stopped: bool) -> Found:
        """The best candidate, or the nearest one; steps that it lacks were not kept."""
        for each in [each for recipe, each in self.scored.items() if recipe.steps and recipe not in self.verdicts]:
            self.judge(each, kept=False, why="stopped before it was compared")
        verdicts = tuple(self._final(verdict) for verdict in self.verdicts.values())
        misses, unjudged = self.goal.misses(self.best), self.goal.unjudged(self.best)
        return Found(self.best, misses, verdicts, tuple(self.refusals), unjudged, stopped)

    def judge(self, candidate: Candidate, *, kept: bool, why: str) -> None:
        """Writes the verdict on a candidate; a later one takes an earlier one's place."""
        self.verdicts.pop(candidate.recipe, None)
        self.verdicts[candidate.recipe] = Verdict(candidate, kept, why)

    def ask(self, trial: Trial) -> Generator[Trial, Answer, Answer]:
        """What comes of a trial, which is made once; refusals are written down."""
        if trial in self.told:
            return self.told[trial]
        answer = yield trial
        self.told[trial] = answer
        if isinstance(answer, Refusal):
            self.refusals.append(answer)
        elif trial.scored:
            self.scored[trial.recipe] = answer
        return answer

    def settle(self, pool: Sequence[Candidate]) -> Generator[Trial, Answer, bool]:
        """Makes the answer among `pool` the best, if one meets the goal when its speed is measured afresh."""
        recipes = [each.recipe for each in pool]
        while True:
            known = [self.scored[recipe] for recipe in recipes if recipe in self.scored]
            answer = self.goal.answer(known, done=self.start.recipe.steps)
            if answer is None:
                # What was the best may have been so by luck.
                self.best = self.scored.get(self.best.recipe, self.start)
                return False
            if answer.recipe in self.afresh:
                self.best = answer
                return True
            if isinstance((yield from self.ask(Trial(answer.recipe, afresh=True))), Refusal):
                del self.scored[answer.recipe]
            self.afresh.add(answer.recipe)

    def best_of(self, steps: Sequence[Step]) -> Generator[Trial, Answer, None]:
        """Tries every setting of a step that needs no training; keeps the best one that pays."""
        if self.best is not self.goal.baseline and self.goal.met(self.best):
            return
        before, tried = self.best, []
        for step in steps:
            found = yield from self.ask(Trial(before.recipe.then(step)))
            if isinstance(found, Candidate):
                tried.append(found)
        if not (yield from self.settle([each for each in tried if self._pays(before, each)])):
            tried = [self.scored[each.recipe] for each in tried if each.recipe in self.scored]
            self.best = min((each for each in tried if self._pays(before, each)), key=self.goal.rank, default=before)
        for each in tried:
            kept = each.recipe == self.best.recipe
            self.judge(each, kept=kept, why=self._reason(before, each, kept=kept))

    def least_of(self, rivals: Sequence[Sequence[Step]], before: Candidate) -> Generator[Trial, Answer, None]:
        """Trains the setting whose size and speed fit and that scores best untrained, then what is next best.

        `rivals` are techniques of one stage. Each is tried alone at its mildest setting that fits, and the two best
        together. Where one needs no training to meet the goal and keep its score, none is trained; where it lost score
        that nobody limited, training has to do better. A stronger setting of the same is trained only where size or
        speed are missed still.
        """
        fits: list[_Fit] = []
        for family, steps in enumerate(rivals):
            for ladder in _ladders(steps):
                fits += yield from self._fitting(_Fit(before.recipe, ladder, 0, (family,)), before)
        fits = yield from self._ranked(fits)
        if (yield from self._enough(fits)):
            return
        if len(rivals) > 1:
            mixed = yield from self._ranked((yield from self._mixed(fits, rivals, before)))
            if (yield from self._enough(mixed)):
                return
            fits = self._in_order([*fits, *mixed])
        for fit in _one_each(fits):
            if (yield from self._trained(fit, before)):
                return

    def _fitting(self, fit: _Fit, before: Candidate) -> Generator[Trial, Answer, list[_Fit]]:
        """The fit with the place of its mildest step whose size and speed are met, by bisection; none where none is."""
        fitting, first, last = None, 0, len(fit.ladder) - 1
        while first <= last:
            middle = (first + last) // 2
            whole = fit.start.then(fit.ladder[middle])
            recipe = whole.skeleton(done=self.start.recipe.steps)
            dry = yield from self.ask(Trial(recipe, scored=False))
            if isinstance(dry, Refusal):
                first, last = (first, middle - 1) if dry.too_strong else (middle + 1, last)
                continue
            self.bare[recipe] = whole.untrained(done=self.start.recipe.steps)
            short = self.goal.shortfall(dry)
            self.judge(dry, kept=False, why=f"a dry run, to see its size and speed: {short or 'both fit'}")
            if short or not self.goal.moved(before, dry):
                first = middle + 1
            else:
                fitting, last = middle, middle - 1
        return [] if fitting is None else [replace(fit, place=fitting)]

    def _ranked(self, fits: Sequence[_Fit]) -> Generator[Trial, Answer, list[_Fit]]:
        """The fits as they do before training, best first."""
        ranked = []
        for fit in fits:
            recipe = fit.start.then(fit.ladder[fit.place]).untrained(done=self.start.recipe.steps)
            candidate = yield from self.ask(Trial(recipe))
            if isinstance(candidate, Refusal):
                continue
            self.judge(
                candidate, kept=False, why=f"untrained: {self.goal.shortfall(candidate) or 'every limit is met'}"
            )
            ranked.append(replace(fit, untrained=candidate))
        return self._in_order(ranked)

    def _in_order(self, fits: Sequence[_Fit]) -> list[_Fit]:
        return sorted(fits, key=lambda fit: self.goal.rank(fit.untrained or self.start))

    def _enough(self, fits: Sequence[_Fit]) -> Generator[Trial, Answer, bool]:
        """Whether one of them is the answer as it is."""
        untrained = [fit.untrained for fit in fits if fit.untrained]
        return (yield from self.settle([each for each in untrained if self.goal.kept_its_score(each)]))

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
        start = before.recipe.then(half.untrained())
        return (yield from self._fitting(_Fit(start, ladder, 0, (first, second)), before))

    def _trained(self, fit: _Fit, before: Candidate) -> Generator[Trial, Answer, bool]:
        """Whether the mildest step that fits meets the goal once trained, or a stronger one where that is too large."""
        for step in fit.ladder[fit.place :]:
            rival = self.best
            trained = yield from self.ask(Trial(fit.start.then(step)))
            if isinstance(trained, Refusal):
                continue
            settled = yield from self.settle(self.changed())
            trained = self.scored.get(trained.recipe, trained)
            if not settled:
                self.best = min(self.best, trained, key=self.goal.rank)
            short = self.goal.shortfall(trained)
            better = self.best.recipe == trained.recipe
            why = self.goal.gain(before, trained) if better else _no_better(fit.untrained or rival, trained)
            self.judge(trained, kept=better and not short, why=short or why)
            if not short or self.goal.misses_score(trained):
                return not short
        return False

    def recover(self, steps: Sequence[Step]) -> Generator[Trial, Answer, None]:
        """Wins back score where nothing else is missed: the mildest step that is enough, or the one that does best."""
        before = self.best
        for step in steps:
            if self.goal.unjudged(self.best) or {miss.limit for miss in self.goal.misses(self.best)} != {"score"}:
                return
            found = yield from self.ask(Trial(before.recipe.then(step)))
            if isinstance(found, Refusal):
                continue
            pays = self.goal.distance(found) < self.goal.distance(self.best) and _won(self.best, found) > 0
            self.judge(found, kept=pays, why=f"score {_won(before, found):+.4f}")
            if pays and not (yield from self.settle([found])):
                self.best = self.scored.get(found.recipe, self.best)

    def score_nearest(self) -> Generator[Trial, Answer, None]:
        """Makes the nearest candidate the best; a dry run is scored first, as far as that goes without training."""
        dry = [each.candidate for recipe, each in self.verdicts.items() if recipe in self.bare]
        gaining = [each for each in dry if not self.goal.fits(each) and self.goal.moved(self.best, each)]
        nearest = min(gaining, key=self.goal.rank, default=None)
        if nearest is not None and self.goal.rank(nearest) < self.goal.rank(self.best):
            recipe = self.bare[nearest.recipe]
            if recipe not in self.scored and isinstance((yield from self.ask(Trial(recipe))), Candidate):
                self.judge(self.scored[recipe], kept=False, why="untrained, to see how the nearest one scores")
        self.best = min(self.best, *self.changed(), key=self.goal.rank) if self.changed() else self.best

    def _pays(self, before: Candidate, after: Candidate) -> bool:
        return self.goal.moved(before, after) and self.goal.distance(after) <= self.goal.distance(before)

    def _reason(self, before: Candidate, candidate: Candidate, *, kept: bool) -> str:
        if kept:
            return self.goal.gain(before, candidate)
        if not self.goal.moved(before, candidate):
            return self.goal.no_gain(before, candidate)
        return "another setting does better" if self._pays(before, candidate) else "misses more"

    def _final(self, verdict: Verdict) -> Verdict:
        """The verdict on the candidate as it was measured last, in the light of how the search ended."""
        candidate = self.scored.get(verdict.candidate.recipe, verdict.candidate)
        if candidate.recipe == self.best.recipe and self.goal.met(self.best):
            return Verdict(candidate, True, verdict.why if verdict.kept else f"{verdict.why}: the answer")
        if not verdict.kept or all(step in self.best.recipe.steps for step in candidate.recipe.steps):
            return Verdict(candidate, verdict.kept, verdict.why)
        return Verdict(
            candidate, False, f"undone: {self.goal.shortfall(candidate) or f'{self.best.recipe} does better'}"
        )


def _won(before: Candidate, after: Candidate) -> float:
    old, new = before.measurement.score, after.measurement.score
    return new.value - old.value if old and new else 0.0


def _no_better(rival: Candidate, trained: Candidate) -> str:
    change = f"score {_won(rival, trained):+.4f}"
    return f"{change}: no better than before training, where chance moves it by {noise(rival):.4f}"


def _one_each(ranked: Sequence[_Fit]) -> list[_Fit]:
    """The best of each technique and mixture."""
    best: dict[tuple[int, ...], _Fit] = {}
    for fit in ranked:
        best.setdefault(fit.family, fit)
    return list(best.values())


def _ladders(steps: Sequence[Step]) -> list[Sequence[Step]]:
    """Runs of steps that differ in their strength only."""
    ladders: list[list[Step]] = []
    for step in steps:
        if ladders and _same_but_strength(ladders[-1][-1], step):
            ladders[-1].append(step)
        else:
            ladders.append([step])
    return list(ladders)


def _same_but_strength(one: Step, other: Step) -> bool:
    ours, theirs = ({**asdict(each), each.strength: None} for each in (one, other))  # type: ignore[call-overload]
    return type(one) is type(other) and ours == theirs


def _by_cost(options: Sequence[Sequence[Step]], *, trains: bool) -> list[Sequence[Step]]:
    """The techniques that train (or do not), those that keep the structure first."""
    chosen = [steps for steps in options if steps and steps[0].trains == trains]
    return sorted(chosen, key=lambda steps: (-steps[0].stage, technique(steps[0])))
