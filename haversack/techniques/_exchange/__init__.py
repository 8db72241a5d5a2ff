"""Exchange: some layers give way to cheaper ones, so that the network reaches a cost with the least loss.

Sites are the layers that may go. A price is what their replacements save, timed on the target where there is one and
counted otherwise; the selection is one choice a site. `factorize` and `replace_blocks` are this with ways of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from haversack.allocate import allocate
from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.channels.cost import Measure
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.run import Batches
from haversack.model import Layer, Model
from haversack.progress import say, track
from haversack.techniques._exchange.price import Gain, Price, price_of
from haversack.techniques._exchange.sites import ExchangeSite, Replacement, blank, problem_at, sites, with_replacements

Ranks = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """One way to write a layer: its cost over the layer as it is, a share of the network's; its loss, of its output."""

    method: str
    ranks: Ranks
    layers: tuple[Layer, ...]
    cost: float = 0.0
    loss: float = 0.0

    def __str__(self) -> str:
        return f"{self.method} {' x '.join(map(str, self.ranks))}"


_TRIES = 3
"""Layers are timed by themselves: what they save together has to be corrected once or twice."""


@dataclass(frozen=True)
class Selection:
    """What there is to choose from: for each of the layers `found`, the layer as it is and what pays in its place."""

    price: Price
    found: Sequence[ExchangeSite]
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
            chosen = allocate(self.choices, goal - 1)
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


@dataclass(frozen=True)
class Ways:
    """What may take a layer's place, as a row of functions, and how it is called."""

    one: str
    many: str
    nothing: str
    """What is said where there is no layer that it suits."""
    lacking: str
    """The reason where none is known of any layer."""
    suits: Callable[[Geometry], bool]
    tried: Callable[[ExchangeSite, Callable[[], Problem]], Iterable[Choice]]
    """What is worth pricing; the problem is asked for only by ways that need it."""
    loss: Callable[[Problem, Choice], float]
    """The share of the layer's output power that is lost at first."""
    replacement: Callable[[Problem, Choice], Replacement]


@dataclass(frozen=True)
class Exchange:
    """Layers of a network that give way to what has less `of` what counts; `batches` tell what layers read."""

    model: Model
    of: Measure
    ways: Ways
    batches: Batches = ()

    def in_reach(self, keeps: Iterable[float]) -> Iterator[float]:
        """Those fractions that can be reached, by counting."""
        price = price_of(replace(self.model, target=None), self.of)
        best = (max((gain.saved for _, gain in each), default=0.0) for _, each in self._priced(price, self._sites()[0]))
        left = 1 - sum(max(0.0, saved) for saved in best)
        return (keep for keep in keeps if left <= keep and left < 1)

    def done(self, keep: float | None) -> tuple[Model, list[str]]:
        """The model with a fraction `keep` of what counts, or with the least in reach, and the paths that changed.

        Its teacher is the model's. Raises RecipeError, naming the smallest fraction in reach, where `keep` lies below
        it, and NothingChangedError where nothing suits or pays, or the whole network turns out not to be cheaper.
        """
        found, price = self._found(), price_of(self.model, self.of)
        pairs = track(self._priced(price, found), f"trying {self.ways.many}", len(found))
        choices = [self._choices(price, site, priced) for site, priced in pairs]
        if all(len(each) == 1 for each in choices):
            raise NothingChangedError(
                f"{self.ways.many} lower the {price.said} of no layer.", mend="leave the step out."
            )
        selection = Selection(price, found, choices)
        chosen = selection.cheapest() if keep is None else selection.within(keep)
        return self._replaced([(site, choice) for site, choice in zip(found, chosen, strict=True) if choice.method])

    def told(
        self, setting: str, said: Mapping[str, str], choice: Callable[[ExchangeSite, str], Choice]
    ) -> tuple[Model, list[str]]:
        """The model in which each layer named in `said` is what `choice` reads there, and the paths that changed.

        Raises RecipeError, naming the layers that may be, for others.
        """
        known, left = sites(self.model)
        at = {site.path: site for site in known if self.ways.suits(site.geometry)}
        for path in said.keys() - at.keys():
            reason = left.get(path, self.ways.lacking if path in {site.path for site in known} else "no such layer")
            raise RecipeError(f"{path}: {reason}.", where=setting, mend=f"choose from: {', '.join(at)}.")
        return self._replaced([(at[path], choice(at[path], text)) for path, text in said.items()])

    def _replaced(self, chosen: Iterable[tuple[ExchangeSite, Choice]]) -> tuple[Model, list[str]]:
        replacements = {}
        for site, choice in chosen:
            problem = self._problem(site)
            replacements[site.path] = self.ways.replacement(problem, choice)
            lost = choice.loss or self.ways.loss(problem, choice)
            say(f"{site.path}: {choice}, {lost:.1%} of its output is lost.")
        small = self.model.with_module(*with_replacements(self.model.module, replacements))
        return replace(small, teacher=self.model.teacher or self.model.module), list(replacements)

    def _sites(self) -> tuple[list[ExchangeSite], dict[str, str]]:
        found, left = sites(self.model)
        return [site for site in found if self.ways.suits(site.geometry)], left

    def _found(self) -> list[ExchangeSite]:
        found, left = self._sites()
        for path, reason in left.items():
            say(f"{path} is left alone: {reason}.")
        if not found:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left.items())[:3])
            raise NothingChangedError(
                f"{self.ways.nothing} ({reasons or self.ways.lacking}).", mend="leave the step out."
            )
        return found

    def _problem(self, site: ExchangeSite) -> Problem:
        return problem_at(self.model.module, site, self.batches)

    def _priced(
        self, price: Price, found: Iterable[ExchangeSite]
    ) -> Iterator[tuple[ExchangeSite, list[tuple[Choice, Gain]]]]:
        """What may take each site's place, and what that brings; layers that are alike are timed once."""
        known: dict[object, list[Gain]] = {}
        for site in found:
            tried = list(self.ways.tried(site, partial(self._problem, site)))
            alike = (site.geometry, site.input_shape, site.calls, *((each.method, each.ranks) for each in tried))
            if alike not in known:
                known[alike] = price.gains(site, [each.layers for each in tried])
            yield site, list(zip(tried, known[alike], strict=True))

    def _choices(self, price: Price, site: ExchangeSite, priced: Sequence[tuple[Choice, Gain]]) -> list[Choice]:
        """The layer as it is, and what is cheaper in its place, with what that loses of its output."""
        whole = Choice("", (), (site.whole,))
        cheaper = [replace(each, cost=-gain.saved) for each, gain in priced if gain.pays]
        if not cheaper:
            say(f"{site.path} is left alone: {price.no_gain(self.ways.one, [gain for _, gain in priced])}.")
            return [whole]
        problem = self._problem(site)
        return [whole, *(replace(each, loss=self.ways.loss(problem, each)) for each in cheaper)]
