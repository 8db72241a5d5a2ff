"""Selection: one way to write each layer, so that the network as a whole costs what it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from haversack.errors import NothingChangedError, RecipeError
from haversack.numerics.factors.allocate import Choice, allocated
from haversack.numerics.factors.price import Price
from haversack.numerics.factors.sites import Site, blank

_TRIES = 3
"""Layers are timed by themselves: what they save together has to be corrected once or twice."""


@dataclass(frozen=True)
class Selection:
    """What there is to choose from: for each of the layers `found`, the layer as it is and what pays in its place."""

    price: Price
    found: Sequence[Site]
    choices: Sequence[Sequence[Choice]]

    def cheapest(self) -> list[Choice]:
        """The cheapest choice of each layer. Raises NothingChangedError where the whole network does not pay so."""
        return self._cheapest()[0]

    def within(self, keep: float) -> list[Choice]:
        """The choices that lose least among those with which the network costs the fraction `keep` of what it did.

        Raises RecipeError, naming the smallest fraction in reach, where `keep` lies below it, and NothingChangedError
        as `cheapest` does.
        """
        cheapest, least = self._cheapest()
        if least > keep:
            raise RecipeError(
                f"keep is {keep}, but the smallest fraction of {self.price.said} in reach is {least:.3f}.",
                mend="keep more.",
            )
        # What layers save by themselves is not what they save together: the cheapest choices tell by how much.
        scale = sum(one.cost for one in cheapest) / (least - 1)
        goal = 1 - (1 - keep) * scale
        for _ in range(_TRIES):
            chosen = allocated(self.choices, goal)
            ratio = self._ratio(chosen)
            if ratio <= keep * (1.01 if self.price.timed else 1):
                return chosen
            goal -= (ratio - keep) * scale
        return cheapest

    def _cheapest(self) -> tuple[list[Choice], float]:
        """The cheapest choices, and the fraction of its cost that the network has with them."""
        cheapest = [min(each, key=lambda one: one.cost) for each in self.choices]
        least = self._ratio(cheapest)
        if least >= 1:
            raise NothingChangedError(
                f"by then the network has {least:.3f} of its {self.price.said}, though its layers alone have less.",
                mend="leave the step out.",
            )
        return cheapest, least

    def _ratio(self, chosen: Sequence[Choice]) -> float:
        pairs = zip(self.found, chosen, strict=True)
        layers = {site.path: choice.layers for site, choice in pairs if choice.method}
        return self.price.ratio(blank(self.price.model, layers))
