"""What a search asks for, what it is told, and what it ends with, or why it found nothing that can be shipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from haversack.errors import InfeasibleError, NothingChangedError, QuantityError
from haversack.limits import LIMITS, Limit, Miss
from haversack.measurement import Candidate
from haversack.plan.frontier import FrontierRow, LimitPrice, Prediction
from haversack.recipe import Recipe


@dataclass(frozen=True)
class Trial:
    """A recipe to measure. Without `scored` only size and speed are wanted, for which its skeleton is enough.

    With `afresh` its speed is wanted once more: of many measurements the best one is luck too.
    """

    recipe: Recipe
    scored: bool = True
    afresh: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of one tried recipe, and why."""

    candidate: Candidate
    kept: bool
    why: str


@dataclass(frozen=True)
class Refusal:
    """A recipe that a step refused, and why."""

    recipe: Recipe
    why: str


@dataclass(frozen=True)
class Found:
    """The end of a search: the best candidate, what it misses or nobody can judge, and everything that was tried."""

    best: Candidate
    misses: tuple[Miss, ...]
    verdicts: tuple[Verdict, ...]
    refusals: tuple[Refusal, ...] = ()
    unjudged: tuple[str, ...] = ()
    stopped: bool = False
    """Whether somebody ended the search early."""
    frontier: tuple[FrontierRow, ...] = ()
    """At most nine recipes that no other beats in flash, latency and score, the best score first."""
    predictions: tuple[Prediction, ...] = ()
    """What was predicted of candidates, beside what they were measured at."""
    prices: tuple[LimitPrice, ...] = ()
    """How much score a little more of each limit would buy."""
    picked: int | None = None
    """The row of the frontier that somebody chose, whatever the limits say."""
    relaxations: Mapping[str, float] = field(default_factory=dict)
    """Where no plan keeps all limits: for each, by field, the least value with which the others can be kept.

    It is infinite where no value of this one alone is enough.
    """

    @property
    def met(self) -> bool:
        """Whether every limit is known to be met."""
        return not self.misses and not self.unjudged

    @property
    def place(self) -> int | None:
        """The number of the best candidate's row on the frontier, from 1; None where it has none."""
        recipes = [row.recipe for row in self.frontier]
        return recipes.index(self.best.recipe) + 1 if self.best.recipe in recipes else None


Answer = Candidate | Refusal
Search = Generator[Trial, Answer, Found]


def followed(search: Search, answer: Callable[[Trial], Answer]) -> Found:
    """What a search ends with when it is answered; whoever stops it gets the best so far, timed once more."""
    try:
        trial = next(search)
        while True:
            try:
                told = answer(trial)
            except KeyboardInterrupt as stop:
                trial = search.throw(stop)
            else:
                trial = search.send(told)
    except StopIteration as finished:
        found: Found = finished.value
        return found


def failure(found: Found) -> BaseException | None:
    """What to raise where a search ended, or was stopped, with nothing to ship; None where there is an answer."""
    if found.met and found.best.recipe.steps:
        return None
    if found.stopped:
        return KeyboardInterrupt()
    return nothing_pays(found) if found.met else infeasible(found)


def infeasible(found: Found) -> InfeasibleError:
    """The limits that no candidate meets, with what the nearest one misses."""
    score = found.best.measurement.score
    short = [f"misses {miss}" for miss in found.misses]
    short += [f"cannot be judged in its {limit}" for limit in found.unjudged]
    known = f", scores {score.value:.4f}" if score and all(miss.limit != "score" for miss in found.misses) else ""
    idle = "" if found.verdicts or found.relaxations else f"; {_idle(found)}"
    return InfeasibleError(
        f"no candidate meets the budget. The nearest ({found.best.recipe}) {'; '.join(short)}{known}{idle}."
        f"{_relaxed(found.relaxations)}",
        relaxations=found.relaxations,
        mend=("limit what can be judged (the report's notes say what would make it so), " if found.unjudged else "")
        + "raise that limit, allow a larger score drop, or start from a smaller network.",
    )


def _relaxed(relaxations: Mapping[str, float]) -> str:
    """What each limit would have to be for the others to be kept."""
    rows = {limit.field: limit for limit in LIMITS}
    enough = [_looser(rows[field], value) for field, value in relaxations.items() if math.isfinite(value)]
    if not relaxations:
        return ""
    if not enough:
        return " No single limit is the reason: to raise one of them alone is not enough."
    return f" With the other limits as they are, it would take {' or '.join(enough)}."


def _looser(limit: Limit, value: float) -> str:
    """A limit of that value in words, rounded so that what is told as enough is enough when it is set."""
    floor = limit.at_least and limit.kind != "drop"
    shown, looser = limit.show(value), value
    with suppress(QuantityError):  # of a score that is no share
        while (limit.parse(shown) or 0.0) * (-1 if floor else 1) < value * (-1 if floor else 1):
            looser *= 0.9999 if floor else 1.0001
            shown = limit.show(looser)
    if limit.kind == "drop":
        return f"a fall of the score by {shown}"
    article = "" if limit.title.endswith("s") else "an " if limit.title[0] in "aeiou" else "a "
    return f"{article}{limit.title} of {shown}"


def nothing_pays(found: Found) -> NothingChangedError:
    """All that was tried, and why none of it is worth doing."""
    if not found.verdicts:
        return NothingChangedError(
            f"the network keeps every limit as it is, and {_idle(found)}.",
            mend="ship the network as it is, set a tighter limit, or try other techniques (--try).",
        )
    tried = [f"{each.candidate.recipe}: {each.why}" for each in found.verdicts]
    tried += [f"{each.recipe}: {each.why}" for each in found.refusals]
    return NothingChangedError(
        f"nothing that was tried pays: {'; '.join(line.rstrip('.') for line in tried)}.",
        mend="set a tighter limit, or ship the network as it is.",
    )


def _idle(found: Found) -> str:
    """That nothing could be done, with each reason once."""
    reasons = dict.fromkeys(refusal.why.rstrip(".") for refusal in found.refusals)
    if reasons:
        return f"all that was tried is refused: {'; '.join(reasons)}"
    return "no technique finds anything to do in this network"
