"""Problem: sites with options, what they lose and what they cost, as tables that a solver reads. Knows no network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Term:
    """A part of a sum that depends on a few sites: `amounts` has a dimension a site, with an entry an option."""

    sites: tuple[int, ...]
    amounts: Numbers

    def of(self, chosen: Sequence[int]) -> float:
        """The amount for one option of each of all sites."""
        return float(self.amounts[tuple(chosen[site] for site in self.sites)])

    def holding(self, sites: Collection[int]) -> Term:
        """The term where nothing is done at these sites."""
        kept = tuple(slice(1) if site in sites else slice(None) for site in self.sites)
        return replace(self, amounts=self.amounts[kept])


@dataclass(frozen=True, eq=False)
class Measure:
    """A figure of the whole network: fixed + factor x the largest of its moments, each a sum of terms.

    Sizes and times have one moment; memory has one for each operation that runs.
    """

    moments: tuple[tuple[Term, ...], ...]
    fixed: float = 0.0
    factor: float = 1.0

    def of(self, chosen: Sequence[int]) -> float:
        """The figure for one option of each site."""
        largest = max((sum(term.of(chosen) for term in terms) for terms in self.moments), default=0.0)
        return self.fixed + self.factor * largest

    @property
    def most(self) -> float:
        """No plan's figure is larger than this."""
        sums = (sum(float(np.max(term.amounts)) for term in terms) for terms in self.moments)
        return self.fixed + self.factor * max(sums, default=0.0)

    def scaled(self, by: float) -> Measure:
        """The figure, so many times as large."""
        return replace(self, fixed=self.fixed * by, factor=self.factor * by)

    def holding(self, sites: Collection[int]) -> Measure:
        """The measure where nothing is done at these sites."""
        return replace(self, moments=tuple(tuple(term.holding(sites) for term in terms) for terms in self.moments))


@dataclass(frozen=True, eq=False)
class PlanProblem:
    """The least loss is wanted at which every measure keeps its limit.

    `options` says how many each site has, the first being that nothing is done. Losses add up over `losses`.
    """

    options: tuple[int, ...]
    losses: tuple[Term, ...]
    measures: Mapping[str, Measure]
    """By the field of `Measurement` that it predicts, such as flash_bytes or latency_ratio."""

    def loss(self, chosen: Sequence[int]) -> float:
        """The sum of losses for one option of each site."""
        return sum(term.of(chosen) for term in self.losses)

    def figures(self, chosen: Sequence[int]) -> dict[str, float]:
        """Every measure for one option of each site."""
        return {name: measure.of(chosen) for name, measure in self.measures.items()}

    def holding(self, sites: Collection[int]) -> PlanProblem:
        """The problem in which nothing can be done at these sites; plans still name an option for each."""
        return PlanProblem(
            tuple(1 if site in sites else count for site, count in enumerate(self.options)),
            tuple(term.holding(sites) for term in self.losses),
            {name: measure.holding(sites) for name, measure in self.measures.items()},
        )
