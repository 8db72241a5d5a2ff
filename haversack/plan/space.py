"""Space: all that can be done to a network in one number format, as a problem; and from its answers back to recipes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from haversack.choices import Effect, Factors, Gone, Option, Site, Swapped, Width, Zeros
from haversack.plan.problem import Measure, Numbers, PlanProblem, Term
from haversack.recipe import Choices, Recipe, Step, technique

Chosen = tuple[int, ...]
Losses = Sequence[Sequence[tuple[float, ...]]]
"""For each technique and site what each option loses."""


@dataclass(frozen=True)
class Beliefs:
    """By what predictions are multiplied, as far as candidates that were built have told."""

    losses: Mapping[str, float] = field(default_factory=dict)
    """By technique."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """By measure."""


class Pricing(Protocol):
    """What plans cost, as far as it is known."""

    def measures(self) -> Mapping[str, Measure]:
        """The figures of plans, by the field of `Measurement` that they predict."""
        ...

    def refine(self, chosen: Chosen) -> bool:
        """Finds out what is only estimated of this plan, such as the time of a layer; whether there was something."""
        ...


@dataclass(frozen=True, eq=False)
class Space:
    """The techniques that act in one number format, their sites in one row, what these lose and what they cost."""

    name: str
    choices: tuple[Choices, ...]
    losses: tuple[Term, ...]
    """One a site, in the sites' order, and then what cannot be done together."""
    pricing: Pricing
    numbers: Step | None = None
    """What makes the numbers of this format where no site asks for more; None where they stay as they are."""
    lost: float = 0.0
    """What these numbers lose by themselves, in nats."""

    @property
    def problem(self) -> PlanProblem:
        """The problem as it is known now."""
        return PlanProblem(tuple(len(site.options) for site in self.sites), self.losses, self.pricing.measures())

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites of all techniques, one after the other."""
        return tuple(site for choices in self.choices for site in choices.sites)

    @property
    def structures(self) -> frozenset[str]:
        """The techniques that change the structure, zeros included: training wins back most of what they lose."""
        return frozenset(site.technique for site in self.sites if any(_is_structure(each) for each in site.options))

    def recipe(self, chosen: Chosen, start: Recipe) -> Recipe:
        """What goes on from `start` and does what is chosen; what lies inside a module that goes stays unsaid."""
        recipe, numbered, said = start, False, self.said(chosen)
        for choices, part in zip(self.choices, self._parts(said), strict=True):
            step = choices.step(part)
            numbered = numbered or (step is not None and step.stage == step.stage.NUMERICS)
            recipe = recipe if step is None else recipe.then(step)
        return recipe if numbered or self.numbers is None else recipe.then(self.numbers)

    def said(self, chosen: Chosen) -> Chosen:
        """The same with nothing chosen inside modules that go, nor for their own weights."""
        gone = {site.name for site, option in zip(self.sites, chosen, strict=True) if option and _goes(site, option)}
        return tuple(
            0 if gone.intersection(_around(site)) else option for site, option in zip(self.sites, chosen, strict=True)
        )

    def believing(self, beliefs: Beliefs) -> PlanProblem:
        """The problem with its predictions corrected."""
        sites = self.sites
        problem = self.problem
        losses = tuple(
            replace(term, amounts=_times(term.amounts, beliefs.losses.get(sites[term.sites[0]].technique, 1.0)))
            for term in problem.losses
        )
        measures = {name: measure.scaled(beliefs.measures.get(name, 1.0)) for name, measure in problem.measures.items()}
        return replace(problem, losses=losses, measures=measures)

    def refusing(self, chosen: Chosen, worked: Sequence[Chosen] = ()) -> Space:
        """The space without what a refused plan did: its exchanges of layers, or all of it where it had none.

        What is part of a plan that `worked` is not to blame by itself. Where all of it is, just the plan is forbidden.
        """
        done = [place for place, option in enumerate(chosen) if option]
        exchanged = [place for place in done if isinstance(self._effect(place, chosen), Factors | Swapped)]
        fresh = [place for place in done if all(plan[place] != chosen[place] for plan in worked)]
        blamed = [place for place in exchanged if place in fresh] or fresh
        sizes = [len(self.sites[place].options) for place in done]
        if not blamed and math.prod(sizes) <= _JOINT:
            return self._without(done, chosen=chosen)
        return self._without(*([place] for place in blamed or exchanged or done), chosen=chosen)

    def _without(self, *parts: Sequence[int], chosen: Chosen) -> Space:
        """The space in which no plan has all of the chosen options of one of these parts."""
        losses = list(self.losses)
        for places in parts:
            amounts = np.zeros([len(self.sites[place].options) for place in places])
            amounts[tuple(chosen[place] for place in places)] = FORBIDDEN
            losses.append(Term(tuple(places), amounts))
        return replace(self, losses=tuple(losses))

    def losses_of(self, chosen: Chosen) -> dict[str, float]:
        """What is predicted to be lost, by technique."""
        sites, sums = self.sites, dict[str, float]()
        for term in self.losses:
            name = sites[term.sites[0]].technique
            sums[name] = sums.get(name, 0.0) + term.of(chosen)
        if self.numbers is not None and self.lost:
            sums[technique(self.numbers)] = self.lost
        return sums

    def _effect(self, place: int, chosen: Chosen) -> Effect | None:
        return self.sites[place].options[chosen[place]].effect

    def _parts(self, chosen: Chosen) -> Iterator[Chosen]:
        start = 0
        for choices in self.choices:
            end = start + len(choices.sites)
            yield chosen[start:end]
            start = end


_JOINT = 1 << 16
"""A table of a whole plan has at most so many entries."""
FORBIDDEN = 1e6
"""Nats: more than any network can lose."""


def loss_terms(sites: Sequence[Site], losses: Losses) -> tuple[Term, ...]:
    """A term a site, which loses nothing where a module around it is gone."""
    removals = {site.name: place for place, site in enumerate(sites) if any(_goes(site, i) for i in _all(site))}
    flat = [each for technique in losses for each in technique]
    return tuple(
        _within(place, np.array(lost), [removals[path] for path in _around(site) if path in removals], sites)
        for place, (site, lost) in enumerate(zip(sites, flat, strict=True))
    )


def _times(amounts: Numbers, factor: float) -> Numbers:
    """So many times the losses; what is forbidden stays so."""
    return np.where(amounts >= FORBIDDEN, amounts, amounts * factor)


def _within(place: int, lost: Numbers, around: Sequence[int], sites: Sequence[Site]) -> Term:
    """The losses of a site over its own options and those of the sites that can take it away."""
    shape = (len(lost), *(len(sites[each].options) for each in around))
    amounts = np.broadcast_to(lost.reshape(-1, *(1,) * len(around)), shape).copy()
    for axis, other in enumerate(around, start=1):
        gone = [option for option in _all(sites[other]) if _goes(sites[other], option)]
        amounts[(slice(None),) * axis + (gone,)] = 0.0
    return Term((place, *around), amounts)


def _around(site: Site) -> Iterator[str]:
    """The paths of the modules that take a site along when they go: those around it, and that of its own weight."""
    parts = site.name.split(".")
    own = not any(isinstance(option.effect, Gone | Width) for option in site.options)
    return (".".join(parts[:depth]) for depth in range(1, len(parts) + own))


def _all(site: Site) -> range:
    return range(len(site.options))


def _is_structure(option: Option) -> bool:
    effect = option.effect
    return isinstance(effect, Width | Gone | Factors | Swapped) or (isinstance(effect, Zeros) and effect.share > 0)


def _goes(site: Site, option: int) -> bool:
    return isinstance(site.options[option].effect, Gone)
