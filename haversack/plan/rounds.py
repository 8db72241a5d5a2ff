"""Rounds: plans are solved on paper, few are built and measured, what was wrong is corrected, and it is solved again.

`rounds` asks by yielding a Trial and is told by being sent the Candidate, or the Refusal of a step. It knows techniques
only by what they offer (see plan/space.py).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from haversack.interrupt import heard
from haversack.limits import LIMITS
from haversack.measurement import Candidate
from haversack.plan.drafting import MARGIN, planned, within_margin
from haversack.plan.found import Answer, Found, Refusal, Search, Trial, Verdict
from haversack.plan.frontier import LimitPrice, drawn, measured_rows
from haversack.plan.goal import Goal
from haversack.plan.learning import LOSS, Built, Draft, learned
from haversack.plan.outlook import Outlook
from haversack.plan.schedule import Schedule, with_training
from haversack.plan.solve import least_relaxation, solve
from haversack.plan.space import FORBIDDEN, Beliefs, Space
from haversack.recipe import Recipe, Step

_BUILT = 6
"""So many plans are built before any training, at most."""
_BETTER = 0.2
"""A milder plan is built where it is predicted to lose less by this share."""
_RIVALS = 3
"""So many plans are trained, at most."""
_CLOSE = 1.2
"""And of them those that are predicted to lose no more than so many times what the best loses."""
_RECOVERED = 0.1
"""What is left of a structure's loss after training, as long as nothing is known; that of rounding stays."""
_SPENT = 1 / 3
"""A plan below the answer, which no limit needs, is expected to lose at most so much of the score that may be lost."""
_EXPLORED = 5
"""Of the frontier's rows about so many are built where nothing is limited."""
_TIME = "latency_ratio"
_FAR_OFF = {_TIME: 0.15, "update_bytes": 0.1}
"""By what share predictions of a plan like the fastest or the shortest there is may be off, where more than others."""
_TIGHTER = 0.8
"""What is built below the answer needs such a share of what that needs; after each that is no better, half as far."""
_FEW = 2
"""So many plans below the answer are built, at most, where nobody says how many."""
_TRIES = 3
"""So often a plan that was predicted to fit and did not is solved for again."""


def rounds(
    spaces: Sequence[Space], goal: Goal, schedule: Schedule | None, start: Candidate | None = None, below: int = _FEW
) -> Search:
    """The plan that loses least within the limits, built, corrected, and trained only where it has lost too much.

    All recipes go on from `start`, a student that takes the original's place, where there is one. Without a schedule
    nothing is trained. At most so many plans are built `below` an answer that needed no training: the cheaper they are
    to build, the more of them. A KeyboardInterrupt that is thrown in ends it with the best candidate so far.
    """
    run = _Rounds(spaces, goal, start or goal.baseline)
    stopped = False
    try:
        yield from run.untrained()
        if (yield from run.settled()):
            yield from run.tightened(below)
        elif schedule is not None:
            yield from run.trained(schedule)
    except KeyboardInterrupt:
        heard()
        stopped = True
    yield from run.settled(whatever=True)
    if run.answer is None and not stopped and not run.relaxations:
        run.relaxations = run.relaxed()
    return run.found(stopped=stopped)


def survey(spaces: Sequence[Space], goal: Goal, start: Candidate | None = None) -> Search:
    """The frontier without training: plans that are spread over it are built, as many as can be told apart.

    The best of it is the candidate that `goal` likes best.
    """
    run = _Rounds(spaces, goal, start or goal.baseline)
    stopped = False
    try:
        drafts = {draft.recipe: draft for draft in run.outlook.drafts()}
        rows = drawn([run.outlook.row(draft) for draft in drafts.values()], goal.baseline.measurement)
        for row in rows[:: max(1, len(rows) // _EXPLORED)]:
            yield from run.build(drafts[row.recipe])
    except KeyboardInterrupt:
        heard()
        stopped = True
    return run.found(stopped=stopped)


@dataclass
class _Rounds:
    """What is known so far."""

    spaces: Sequence[Space]
    goal: Goal
    start: Candidate
    built: list[Built] = field(default_factory=list)
    scored: dict[Recipe, Candidate] = field(default_factory=dict)
    """All that was built, as it was measured last."""
    refusals: list[Refusal] = field(default_factory=list)
    afresh: set[Recipe] = field(default_factory=set)
    """Recipes whose speed was measured once more."""
    drafts: dict[Recipe, Draft] = field(default_factory=dict)
    """The plans that were built, by their recipes before training."""
    answer: Candidate | None = None
    relaxations: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.start is not self.goal.baseline:
            self.scored[self.start.recipe] = self.start

    def untrained(self) -> Generator[Trial, Answer, None]:
        """Builds the plan that loses least, and while that misses a limit or leaves room, the one that should not."""
        for _ in range(_BUILT):
            draft = self.draft()
            if draft is None and not self.fitting:
                yield from self.fastest()
                draft = self.draft()
            if draft is None and not self.asked - {self.start.recipe}:
                self.relaxations = self.relaxed()
            if draft is None or not self.promising(draft):
                return
            yield from self.build(draft)

    def tightened(self, tries: int) -> Generator[Trial, Answer, None]:
        """Walks down from the answer: builds what needs clearly less and should score as well, while that comes true.

        One that is no better, or expected to lose too much, halves the tries that are left and the way to the next.
        """
        share = _TIGHTER
        while tries > 0:
            before = self.answer
            draft = self._best(self._tighter(space, share) for space in self.spaces)
            if draft is not None:
                yield from self.build(draft)
                if not (yield from self.settled()):
                    return
            tries -= 1
            if self.answer is before:
                tries, share = tries // 2, (1 + share) / 2

    def _tighter(self, space: Space, share: float) -> Draft | None:
        """The plan that loses least with a share of what the answer has of all that is limited; None if too much."""
        figures = self.answer.measurement if self.answer else self.start.measurement
        asked = self.goal.predictable(space.problem.measures)
        limits = {
            limit.field: min(asked[limit.field], figure.worst) * share
            for limit in LIMITS
            if limit.field in asked and (figure := figures.figure(limit)) is not None and not figure.part
        }
        draft = self._solved(space, self._beliefs(space, 1.0, hopeful=False), limits) if limits else None
        lost = math.inf if draft is None else self.outlook.points_a_nat * draft.loss
        return draft if lost <= self.goal.tolerated * _SPENT else None

    def trained(self, schedule: Schedule) -> Generator[Trial, Answer, None]:
        """Trains the rivals for a short time, and the best of them for a long one more if that is not enough."""
        rivals = yield from self.rivals()
        ranked = list[tuple[Candidate, Draft]]()
        first = (schedule.short,) if schedule.short and len(rivals) > 1 else ()
        for draft in rivals if first else ():
            candidate = yield from self.build(draft, *first)
            if candidate is not None:
                ranked.append((candidate, draft))
        if (yield from self.settled()):
            return
        ranked.sort(key=lambda pair: self.goal.rank(pair[0]))
        begun = first if ranked else ()
        for draft in ([draft for _, draft in ranked] or rivals)[:1]:
            yield from self.build(draft, *begun, schedule.long)

    def rivals(self) -> Generator[Trial, Answer, list[Draft]]:
        """The plans that fit and can win: of those that were built the best, and one made for training if it is better.

        Training wins back what a structure loses, and little of what rounding does.
        """
        fitting = [self.drafts[each.candidate.recipe] for each in self.fitting]
        least = min(map(self.after_training, fitting), default=math.inf)
        for _ in range(_TRIES):
            draft = self.draft(_RECOVERED)
            if draft is None or draft.loss > least * (1 - _BETTER):
                break
            candidate = yield from self.build(draft)
            if candidate is not None and self.goal.fits_but_for_score(candidate):
                fitting.append(draft)
                break
        ranked = sorted(fitting, key=self.after_training)
        least = min(map(self.after_training, ranked), default=math.inf)
        return [draft for draft in ranked if self.after_training(draft) <= least * _CLOSE][:_RIVALS]

    def after_training(self, draft: Draft) -> float:
        """What a plan is expected to lose once it is trained."""
        return draft.space.believing(self._beliefs(draft.space, _RECOVERED)).loss(draft.chosen) + draft.space.lost

    def draft(self, kept: float = 1.0) -> Draft | None:
        """The plan that loses least within the limits, of those that were not asked for yet; None where there is none.

        `kept` is what is left of a structure's losses after training.
        """
        return self._best(self._solved(space, self._beliefs(space, kept), self.limits(space)) for space in self.spaces)

    def _best(self, drafts: Iterable[Draft | None]) -> Draft | None:
        """Of those that were not asked for yet the one that loses least."""
        fresh = (draft for draft in drafts if draft is not None and draft.recipe not in self.asked)
        return min(fresh, key=lambda draft: draft.loss, default=None)

    def _solved(
        self, space: Space, beliefs: Beliefs, limits: dict[str, float], *, whatever: bool = False
    ) -> Draft | None:
        """The plan that loses least within the limits; `whatever`, that which comes nearest to them, too."""
        solution = planned(space, beliefs, limits)
        recipe = space.recipe(solution.chosen, self.start.recipe)
        if not (solution.feasible or whatever) or solution.loss >= FORBIDDEN or recipe == self.start.recipe:
            return None
        return Draft(space, solution.chosen, recipe, solution.loss + space.lost, solution.figures)

    def limits(self, space: Space) -> dict[str, float]:
        """What the solver has to keep: the limits of size, memory and time that it can predict, less a margin."""
        return within_margin(self.goal, space)

    def _beliefs(self, space: Space, kept: float, *, hopeful: bool = True) -> Beliefs:
        """What is believed in a space; hopefully, a technique that was not built there is taken at its word."""
        built = [each for each in self.built if each.space == space.name]
        done = {name for each in built for name, loss in each.losses.items() if loss > 0}
        factors = {each: by for each, by in learned(built).losses.items() if each in done or not hopeful}
        left = {each: factors.get(each, 1.0) * kept for each in self.structures}
        return replace(learned(built), losses={**factors, **left})

    def fastest(self) -> Generator[Trial, Answer, None]:
        """Times the fastest plan of each format, where a time is limited: its sum of layers' times may be far off."""
        for space in (space for space in self.spaces if _TIME in self.limits(space)):
            draft = self._solved(space, Beliefs(), _only_least(space, Beliefs(), _TIME), whatever=True)
            if draft is None or any(each.candidate.recipe == draft.recipe.skeleton() for each in self.built):
                continue
            answer = yield Trial(draft.recipe.skeleton(), scored=False)
            if isinstance(answer, Candidate):
                self.built.append(draft.built(answer))

    def relaxed(self) -> dict[str, float]:
        """For each limit the least value with which the others can be kept, in any format and without training.

        Infinite for one that is as loose as that already: it is not what keeps the goal from being reached.
        """
        least: dict[str, float] = {}
        points = self.outlook.points_a_nat
        drop = self.goal.allowed_drop
        asked = {name for space in self.spaces for name in self.limits(space)}
        able = any(space.sites or space.numbers for space in self.spaces)
        for space in self.spaces if able else ():  # what the network needs as it is may be least
            limits, beliefs = self.limits(space), self._beliefs(space, 1.0)
            built = [each.candidate for each in self.built if each.space == space.name]
            if built and all(map(self.goal.unjudged, built)):
                continue  # nor, as it turned out, what no file of it has a figure for
            if asked - limits.keys():
                continue  # what cannot be predicted there cannot be judged either
            problem = space.believing(beliefs)
            for name in [name for name in limits if problem.measures[name].most <= limits[name]]:
                least[name] = limits.pop(name)  # whatever is done it is kept
            limits[LOSS] = FORBIDDEN / 2 if drop is None else drop / points - space.lost
            if _TIME in limits:
                space.pricing.refine(solve(problem, _only_least(space, beliefs, _TIME)).chosen)
            for name, value in least_relaxation(space.believing(beliefs), limits).items():
                needed = value / (1 - _far_off(name)) if name != LOSS else (value + space.lost) * points
                if (value >= FORBIDDEN) if name == LOSS else self.goal.asks_for_more:
                    needed = math.inf
                least[name] = min(needed, least.get(name, math.inf))
        lost = least.pop(LOSS, math.inf)
        allowed = self.goal.predictable(least)
        looser = {name: value if value > allowed.get(name, 0.0) else math.inf for name, value in least.items()}
        return looser | (self.goal.with_score_lost(lost) if least and drop is not None else {})

    @property
    def structures(self) -> frozenset[str]:
        """The techniques whose losses training wins back."""
        return frozenset(name for space in self.spaces for name in space.structures)

    @property
    def fitting(self) -> list[Built]:
        """The plans that were built, not just timed, and keep every limit but that of the score."""
        known = [each for each in self.built if each.candidate.recipe in self.scored]
        return [each for each in known if self.goal.fits_but_for_score(each.candidate)]

    @property
    def asked(self) -> frozenset[Recipe]:
        """All recipes that were built or refused."""
        return frozenset((*self.scored, *(each.recipe for each in self.refusals)))

    def promising(self, draft: Draft) -> bool:
        """Whether a plan should do better than what was built: something fits at last, or clearly less is lost."""
        return not self.fitting or draft.loss < min(each.loss for each in self.fitting) * (1 - _BETTER)

    def build(self, draft: Draft, *steps: Step) -> Generator[Trial, Answer, Candidate | None]:
        """The measured candidate of a plan, trained by `steps`; None where it is refused."""
        recipe = draft.recipe
        for step in steps:
            recipe = with_training(recipe, step)
        if recipe in self.scored:
            return self.scored[recipe]
        answer = yield Trial(recipe)
        if isinstance(answer, Refusal):
            self.refusals.append(answer)
            if not steps:  # that its training was refused says nothing of the plan
                worked = [each.chosen for each in self.drafts.values() if each.space.name == draft.space.name]
                self.spaces = [
                    space.refusing(draft.chosen, worked) if space.name == draft.space.name else space
                    for space in self.spaces
                    if any(draft.chosen) or space.name != draft.space.name  # its numbers alone were refused
                ]
            return None
        self.scored[recipe] = answer
        if not steps:
            self.built.append(draft.built(answer))
            self.drafts[recipe] = draft
        return answer

    def settled(self, *, whatever: bool = False) -> Generator[Trial, Answer, bool]:
        """Whether something meets every limit and kept its score, or just meets them, when it is timed afresh."""
        while True:
            known = [each for each in self.scored.values() if self.goal.moved(self.goal.baseline, each)]
            self.answer = self.goal.answer(known, done=self.start.recipe.steps)
            if self.answer is None or not (whatever or self.goal.kept_its_score(self.answer)):
                return False
            if self.answer.recipe in self.afresh:
                return True
            again = yield Trial(self.answer.recipe, afresh=True)
            self.afresh.add(self.answer.recipe)
            if isinstance(again, Refusal):
                self.refusals.append(again)
                del self.scored[self.answer.recipe]
            else:
                self.scored[again.recipe] = again

    def found(self, *, stopped: bool) -> Found:
        """The answer, or the nearest candidate, what was made of all others, and what else could be had."""
        # What moved nothing that was limited is no answer, though it keeps all limits.
        short = [each for each in self.scored.values() if not self.goal.met(each)]
        best = self.answer or min(short, key=self.goal.rank, default=self.start)
        outlook = self.outlook
        rows = measured_rows([*self.scored.values(), best])
        known = {row.recipe for row in rows}
        drafts = outlook.drafts() if not stopped else ()
        rows += [outlook.row(draft) for draft in drafts if draft.recipe not in known]
        return Found(
            best,
            self.goal.misses(best),
            tuple(self._verdict(each, best) for each in self.scored.values()),
            tuple(self.refusals),
            self.goal.unjudged(best),
            stopped,
            frontier=drawn(rows, self.goal.baseline.measurement, kept=[best.recipe]),
            predictions=tuple(outlook.predictions()),
            prices=tuple(self._prices(best)) if not stopped else (),
            relaxations=self.relaxations,
        )

    def _prices(self, best: Candidate) -> Iterator[LimitPrice]:
        """What the limits cost, in the format of the answer."""
        spaces = {each.candidate.recipe: each.space for each in self.built}
        space = next((space for space in self.spaces if space.name == spaces.get(best.recipe)), None)
        limits = self.goal.predictable(space.problem.measures) if space else {}
        return self.outlook.prices(space, limits) if space and limits else iter(())

    @property
    def outlook(self) -> Outlook:
        """What all that is known so far promises."""
        return Outlook(self.spaces, self.built, self.goal, self.start.recipe)

    def _verdict(self, candidate: Candidate, best: Candidate) -> Verdict:
        if candidate is best:
            why = self.goal.gain(self.goal.baseline, candidate)
            return Verdict(candidate, self.goal.met(best), self.goal.shortfall(candidate) or why)
        return Verdict(candidate, False, self.goal.shortfall(candidate) or f"{best.recipe} does better")


def _only_least(space: Space, beliefs: Beliefs, measure: str) -> dict[str, float]:
    """Limits that only those plans keep that need the least of a measure, or nearly, of all that are not forbidden."""
    allowed = {measure: 0.0, LOSS: FORBIDDEN / 2}
    least = least_relaxation(space.believing(beliefs), allowed)[measure]
    return {**allowed, measure: least * (1 + MARGIN)}


def _far_off(measure: str) -> float:
    """By what share the least that is predicted of a measure is made larger, to be told as enough."""
    return _FAR_OFF.get(measure, MARGIN)
