"""What a search asks for, what it is told, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

from haversack.measurement import Candidate, Miss
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
    """A recipe that a step refused, and why; `too_strong` where a milder setting may do."""

    recipe: Recipe
    why: str
    too_strong: bool = False


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

    @property
    def met(self) -> bool:
        """Whether every limit is known to be met."""
        return not self.misses and not self.unjudged


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
