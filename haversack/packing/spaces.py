"""Spaces: what the techniques offer a planner on one network, what that loses, and what it costs on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from haversack.choices import Bits, Effect, Factors, Gone, Site, Swapped, Width, Zeros
from haversack.device import Device
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.packing.candidates import Offers
from haversack.packing.costs import Costs
from haversack.packing.costs.layout import Layout
from haversack.packing.workspace import Workspace
from haversack.plan.problem import Measure, Term
from haversack.plan.space import FORBIDDEN, Chosen, Losses, Space, loss_terms
from haversack.progress import say, track
from haversack.recipe import Choices, technique
from haversack.runtimes.timings import Times
from haversack.task import Task
from haversack.techniques.factorize.ways import METHODS

_ORDER: tuple[type[Effect], ...] = (Gone, Width, Swapped, Factors, Zeros, Bits)
"""In which order the techniques of one recipe work: what goes is not cut first, and what is cut not rounded."""


@dataclass(eq=False)
class PricedPlans:
    """What plans cost on a device: sizes by counting, time by timed pieces, or by the rates that the device states."""

    costs: Costs
    whole: Costs
    """The network's own, in float: what ratios are held against."""
    baseline: Measurement
    times: Times | None
    """None where nothing is timed here."""
    coded: bool = True
    """Whether the length of the coded file is told too."""
    _asked: set[object] = field(default_factory=set)
    _latency: Measure | None = None

    def measures(self) -> Mapping[str, Measure]:
        """Size, memory, update and time."""
        timed = {} if self.times is None else {"latency_ratio": self._ratio(self.times)}
        return {**self._counted, **timed}

    def refine(self, chosen: Chosen) -> bool:
        """Times the pieces of a plan that were not timed yet."""
        if self.times is None:
            return False
        wanted = {piece for piece in self.costs.pieces(chosen) if not self.times.timed(piece)} - self._asked
        if not wanted:
            return False
        self.times.measure(sorted(wanted))
        self._asked |= wanted
        self._latency = None
        return True

    @cached_property
    def _counted(self) -> dict[str, Measure]:
        ram = self.baseline.ram_bytes.value if self.costs.numbers == self.whole.numbers else None
        counted = {
            "flash_bytes": self.costs.flash_bytes,
            "ram_bytes": self.costs.ram_bytes(ram),
        }
        if self.coded:
            counted["update_bytes"] = self.costs.update_bytes
        if not self.costs.device.is_host and self.baseline.latency_ms is not None:
            counted["latency_ms"] = self.costs.stated_latency_ms()
        return counted

    def _ratio(self, times: Times) -> Measure:
        """The sum of a plan's pieces over that of the network as it is, in float."""
        if self._latency is None:
            self.timed_whole(times)
            whole = sum(map(times.of, self.whole.pieces(self.whole.nothing)))
            summed = self.costs.latency(times.of)
            self._latency = replace(summed, factor=summed.factor / whole, fixed=summed.fixed / whole)
        return self._latency

    def timed_whole(self, times: Times) -> None:
        """Times the pieces of the network as it is, in float and in these numbers: where every plan begins."""
        begin = {*self.whole.pieces(self.whole.nothing), *self.costs.pieces(self.costs.nothing)}
        times.measure(sorted(piece for piece in begin if not times.timed(piece)))


@dataclass(frozen=True)
class Readings:
    """Reads the spaces of one network: what is offered, and what is lost by it, each asked once."""

    model: Model
    task: Task
    device: Device
    offers: Offers
    baseline: Measurement
    workspace: Workspace
    times: Times | None

    def spaces(self, *, sparse: bool) -> list[Space]:
        """One space a number format.

        Zeros and codebooks, and the coded file's length, are of use only where that is limited (`sparse`).
        """
        offered = sorted(self._offered(sparse=sparse), key=lambda each: _place(each.sites))
        numbers = next(iter(self.offers.to_integers(self.model, self.device)), None)
        floats = [each for each in offered if not _rounds(each.sites)]
        spaces = [self._space("float32", floats, sparse=sparse)]
        if numbers is not None:
            integer = [each for each in offered if not _rounds(each.sites) or _is(each, technique(numbers))]
            spaces.append(replace(self._space("int8", integer, sparse=sparse), numbers=numbers))
        return spaces

    def _offered(self, *, sparse: bool) -> Iterator[Choices]:
        for kind in track(self.offers.kinds(), "looking for choices"):
            choices = kind.choices(self.model, self.device)
            if choices is not None and choices.sites and (sparse or not _is_sparse(choices.sites)):
                yield choices

    def _space(self, name: str, offered: Sequence[Choices], *, sparse: bool) -> Space:
        sites = tuple(site for each in offered for site in each.sites)
        losses: Losses = [self._losses(each) for each in offered]
        whole = Costs(self.model, self.device, sites, "float32", METHODS)
        costs = whole if name == "float32" else Costs(self.model, self.device, sites, name, METHODS)
        pricing = PricedPlans(costs, whole, self.baseline, self.times, coded=sparse)
        terms = (*loss_terms(sites, losses), *_together(costs.layout))
        return Space(name, tuple(offered), terms, pricing)

    def _losses(self, offered: Choices) -> list[tuple[float, ...]]:
        """What each option loses, from the workspace where it was found out before."""
        words = [repr(site) for site in offered.sites]
        kept = self.workspace.note(_Lost, *words)
        if kept is None:
            say(f"what {offered.sites[0].technique} loses, at {len(offered.sites)} places")
            kept = _Lost(tuple(offered.losses(self.task.calibration(), self.task.kind)))
            self.workspace.keep_note(kept, *words)
        return list(kept.nats)


@dataclass(frozen=True)
class _Lost:
    """Losses as they are kept."""

    nats: tuple[tuple[float, ...], ...]


def _together(layout: Layout) -> Iterator[Term]:
    """What cannot be done to one layer at once: it is exchanged for another one once, and is whole before."""
    sizes = [len(site.options) for site in layout.sites]
    widths = {
        place for place, site in enumerate(layout.sites) if any(isinstance(each, Width) for each in _effects([site]))
    }
    pairs = {
        (exchange, other)
        for operation in layout.operations
        for exchange in layout.exchanges(operation)
        for other in (*layout.exchanges(operation), *(widths & set(layout.sites_of(operation))))
        if other != exchange
    }
    for exchange, other in sorted(pairs):
        amounts = np.zeros((sizes[exchange], sizes[other]))
        amounts[1:, 1:] = FORBIDDEN
        yield Term((exchange, other), amounts)


def _effects(sites: Sequence[Site]) -> Iterator[Effect]:
    return (option.effect for site in sites for option in site.options if option.effect is not None)


def _place(sites: Sequence[Site]) -> int:
    return min(_ORDER.index(type(effect)) for effect in _effects(sites))


def _rounds(sites: Sequence[Site]) -> bool:
    return any(isinstance(effect, Bits) for effect in _effects(sites))


def _is_sparse(sites: Sequence[Site]) -> bool:
    return any(isinstance(effect, Zeros) for effect in _effects(sites))


def _is(offered: Choices, name: str) -> bool:
    return offered.sites[0].technique == name
