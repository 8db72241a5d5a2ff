"""Spaces: what the techniques offer a planner on one network, what that loses, and what it costs on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from haversack.calibration.currency import nats
from haversack.choices import Bits, Effect, Factors, Gone, Option, Site, Swapped, Width, Zeros
from haversack.device import Device
from haversack.errors import HaversackError, TaskError, WorkspaceError
from haversack.graph.inference import lower
from haversack.interrupt import is_pressed
from haversack.measurement import Measurement
from haversack.model import Model
from haversack.packing.candidates import Offers
from haversack.packing.costs import Costs
from haversack.packing.costs.layout import DYNAMIC, FLOAT_BITS, Layout
from haversack.packing.prices import PricedPlans, StoredPlans
from haversack.packing.workspace import Workspace
from haversack.plan.problem import Term
from haversack.plan.space import FORBIDDEN, Space, loss_terms
from haversack.positions import that_count
from haversack.progress import say, tell, track
from haversack.recipe import Choices, Recipe, Step, describe, technique
from haversack.runtimes import agreement, find_runtime
from haversack.runtimes.counts import Counts
from haversack.runtimes.timings import Times
from haversack.task import Kinds, Task, brief
from haversack.techniques._choices import LayerChoices
from haversack.techniques.factorize.ways import METHODS
from haversack.techniques.prune_layers.removable import joining
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_weights import QuantizeWeights
from haversack.wiring import mask_of

_ORDER: tuple[type[Effect], ...] = (Gone, Width, Swapped, Factors, Zeros, Bits)
"""In which order the techniques of one recipe work: what goes is not cut first, and what is cut not rounded."""


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
    made_by: Recipe = field(default_factory=Recipe)
    """What the model was made by: that of a student, of the network itself nothing."""
    counts: Counts | None = None
    most_ram: int | None = None
    """What a program may take, where that is limited."""

    def spaces(self, *, sparse: bool, zeros: bool = False) -> list[Space]:
        """One space a number format.

        Zeros and codebooks, and the coded file's length, are of use only where that is limited (`sparse`); `zeros` asks
        for those alone, of which a runtime may store none. Weights in
        fewer bits than floats are a format of their own where the network does not become integers, and linear layers
        that round what they read as it comes are another. Programs compute integers alone.
        """
        numbers = next(iter(self.offers.to_integers(self.model, self.device)), None)
        offers = sorted(self._read(numbers, sparse=sparse, zeros=zeros), key=lambda each: _place(each.choices.sites))
        floats = [each for each in offers if not _rounds(each.choices.sites)]
        rounding = {each.choices.sites[0].technique: each for each in offers if _rounds(each.choices.sites)}
        spaces = list[Space]()
        if find_runtime(self.device).programs is None:
            plain = self._space("float32", floats, sparse=sparse)
            spaces = [plain, *(self._stored(plain) if numbers is None else ())]
        if numbers is not None:
            integers = [each for each in offers if each is not rounding.get(technique(QuantizeDynamic))]
            spaces.append(replace(self._space("int8", integers, sparse=sparse), numbers=numbers))
        if (dynamic := rounding.get(technique(QuantizeDynamic))) is not None:
            spaces += self._as_they_come(floats, dynamic, sparse=sparse)
        return spaces

    def _as_they_come(self, floats: Sequence[_Offer], bits: _Offer, *, sparse: bool) -> Iterator[Space]:
        """The network whose linear layers round what they read as it comes."""
        step = bits.choices.step([0] * len(bits.choices.sites))
        with self._left_out_where_it_fails(technique(QuantizeDynamic)):
            if step is not None:
                lost = self._lost_by(step)
                yield replace(self._space(DYNAMIC, [*floats, bits], sparse=sparse), numbers=step, lost=lost)

    def _read(self, numbers: Step | None, *, sparse: bool, zeros: bool) -> Iterator[_Offer]:
        """What each technique offers, with its losses; one that cannot tell them is left out."""
        for kind in track(self.offers.kinds(), "looking for choices"):
            with self._left_out_where_it_fails(technique(kind)):
                choices = kind.choices(self.model, self.device)
                if choices is None or not choices.sites:
                    continue
                if _is_sparse(choices.sites) and not (sparse or (zeros and not _has_codebooks(choices.sites))):
                    continue
                if isinstance(choices, LayerChoices) and not sparse:
                    choices = choices.keeping(self._is_stored)
                integers = kind is QuantizeDynamic or (numbers is not None and technique(numbers) == technique(kind))
                if not _rounds(choices.sites) or integers:
                    yield _Offer(_Seeded(choices, self.offers), self._losses(choices))

    def _is_stored(self, option: Option) -> bool:
        """Whether plain files are smaller by it: they hold weights as floats, bytes and a few bits."""
        stored = (FLOAT_BITS, 8, *find_runtime(self.device).code_bits)
        return not isinstance(option.effect, Bits) or option.effect.bits in stored

    def _space(self, name: str, offers: Sequence[_Offer], *, sparse: bool) -> Space:
        offered = tuple(each.choices for each in offers)
        sites = tuple(site for each in offered for site in each.sites)
        whole = Costs(self.model, self.device, sites, "float32", METHODS)
        costs = whole if name == "float32" else Costs(self.model, self.device, sites, name, METHODS)
        counts = None if name == "float32" else self.counts
        pricing = PricedPlans(costs, whole, self.baseline, self.times, counts, self.most_ram, coded=sparse)
        terms = (*loss_terms(sites, [each.losses for each in offers]), *_together(costs.layout, self._joining(sites)))
        return Space(name, offered, terms, pricing)

    def _joining(self, sites: Sequence[Site]) -> frozenset[str]:
        """The modules that cannot go while the channels around them change."""
        return joining(self.model, [each.path for each in _effects(sites) if isinstance(each, Gone)])

    def _stored(self, plain: Space) -> Iterator[Space]:
        """The float network with its weights in fewer bits, at each setting that is offered."""
        kinds = [kind for kind in self.offers.kinds() if kind is QuantizeWeights]
        for step in (step for kind in kinds for step in kind.options(self.model, self.device)):
            with self._left_out_where_it_fails(describe(step)):
                lost, pricing = self._lost_by(step), StoredPlans(plain.pricing, step.bits / FLOAT_BITS)
                yield replace(plain, name=describe(step), pricing=pricing, numbers=step, lost=lost)

    def _losses(self, offered: Choices) -> Lost:
        """What each option loses, from the workspace where it was found out before."""

        def found_out() -> Lost:
            say(f"what {offered.sites[0].technique} loses, at {len(offered.sites)} places")
            return tuple(offered.losses(self.task.calibration(), self.task.kind))

        return self._kept(found_out, *(repr(site) for site in offered.sites))

    def _lost_by(self, step: Step) -> float:
        """What a step alone loses, on the calibration inputs."""

        def found_out() -> Lost:
            say(f"what {describe(step)} loses")
            batches = self.task.calibration()
            lowered = find_runtime(self.device).computed(lower(step.apply(self.model, self.task)))
            rounded = agreement.in_torch(lowered)
            before = agreement.in_torch(self.model.module)
            mask = mask_of(self.model.module)

            def apart(batch: tuple[Tensor, ...]) -> float:
                ours, theirs = (that_count(mask, run(*batch), batch) for run in (rounded, before))
                return nats(ours, theirs, self.task.kind) * len(batch[0])

            lost = list(map(apart, batches))
            return ((sum(lost) / sum(len(batch[0]) for batch in batches),),)

        return self._kept(found_out, repr(step))[0][0]

    def _kept(self, found_out: Callable[[], Lost], *words: str) -> Lost:
        """What was found out of this model earlier, or now."""
        kept = self.workspace.note(_Kept, self.made_by.digest, *words)
        if kept is None:
            kept = _Kept(found_out())
            self.workspace.keep_note(kept, self.made_by.digest, *words)
        return kept.nats

    @contextmanager
    def _left_out_where_it_fails(self, name: str) -> Iterator[None]:
        """An error within is said, and no end of the run, if it is of one technique."""
        try:
            yield
        except (TaskError, WorkspaceError):
            raise
        except (HaversackError, RuntimeError) as error:  # torch ends a computation that has no result with the latter
            if is_pressed():
                raise KeyboardInterrupt from error
            told = brief(error) if isinstance(error, RuntimeError) else f"{error.where}: {error.what}".lstrip(": ")
            tell(f"{name} is left out: {told}")


Lost = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class _Seeded:
    """What one technique offers, whose steps draw from the run's seed."""

    offered: Choices
    offers: Offers

    @property
    def sites(self) -> tuple[Site, ...]:
        """As they are offered."""
        return self.offered.sites

    def losses(self, batches: Sequence[tuple[Tensor, ...]], kind: Kinds = "classification") -> list[tuple[float, ...]]:
        """As they are offered."""
        return self.offered.losses(batches, kind)

    def step(self, chosen: Sequence[int]) -> Step | None:
        """The step that does what is chosen, with the run's seed."""
        step = self.offered.step(chosen)
        return None if step is None else self.offers.seeded(step)


@dataclass(frozen=True)
class _Offer:
    """What one technique offers, and what each option of each site loses."""

    choices: Choices
    losses: Lost


@dataclass(frozen=True)
class _Kept:
    """Losses as they are kept."""

    nats: Lost


def _together(layout: Layout, joining: frozenset[str]) -> Iterator[Term]:
    """What cannot be done to one layer at once: it is exchanged for another one once, and is whole before.

    Neither can a module of `joining` go while fewer channels are left on one side of it.
    """
    sizes = [len(site.options) for site in layout.sites]
    every = range(len(sizes))
    widths = {place for place in every if any(isinstance(each, Width) for each in _effects([layout.sites[place]]))}
    closing = {place for place in every if layout.sites[place].name in joining} - widths
    pairs = set[tuple[int, int]]()
    for operation in layout.operations:
        exchanges, around = layout.exchanges(operation), widths & set(layout.sites_of(operation))
        pairs |= {(one, other) for one in exchanges for other in (*exchanges, *around) if other != one}
        pairs |= {(one, other) for one in closing & set(layout.removals(operation.path)) for other in around}
    for one, other in sorted(pairs):
        amounts = np.zeros((sizes[one], sizes[other]))
        amounts[1:, 1:] = FORBIDDEN
        yield Term((one, other), amounts)


def _effects(sites: Sequence[Site]) -> Iterator[Effect]:
    return (option.effect for site in sites for option in site.options if option.effect is not None)


def _place(sites: Sequence[Site]) -> int:
    return min(_ORDER.index(type(effect)) for effect in _effects(sites))


def _rounds(sites: Sequence[Site]) -> bool:
    return any(isinstance(effect, Bits) for effect in _effects(sites))


def _is_sparse(sites: Sequence[Site]) -> bool:
    return any(isinstance(effect, Zeros) for effect in _effects(sites))


def _has_codebooks(sites: Sequence[Site]) -> bool:
    return any(isinstance(effect, Zeros) and effect.codebook for effect in _effects(sites))
