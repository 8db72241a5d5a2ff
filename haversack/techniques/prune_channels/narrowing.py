"""Narrowing: the widths that each channel group of a network may have, and what each of them loses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from torch import nn

from haversack.calibration.currency import Judge, OriginalOutputs, parted
from haversack.channels.group import ChannelGroup, edits_for
from haversack.channels.groups import channel_groups
from haversack.choices import Option, Site, Width
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import Batches, Tensors, named_tensors
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import track
from haversack.surgery.edit import edit
from haversack.task import Kinds
from haversack.techniques.prune_channels.importance import Ranking, l2
from haversack.techniques.prune_channels.ladder import rungs
from haversack.techniques.prune_channels.order import eliminations

_LEAST_SHARE, _MOST = 0.2, 8
"""Of a group's channels that may be left, and how many widths it may have, the whole one among them."""
_FINEST, _FEWEST = 4, 6
"""Blocks of a device's size are halved in groups of fewer than so many, but not below so many channels."""
_TINY = 1e-9


@dataclass(frozen=True, eq=False)
class Widths:
    """The channel groups of a network that can lose channels, and how many may be left of each, most first."""

    model: Model
    groups: Sequence[ChannelGroup]
    counts: Sequence[Sequence[int]]

    @classmethod
    def of(cls, model: Model, multiple: int) -> Self:
        """Counts are multiples of `multiple`, or of half of it or less in narrow groups."""
        found = channel_groups(trace(model.module, model.example), model.module).groups
        counts = [_counts(model.module, group, multiple) for group in found]
        may = [place for place, some in enumerate(counts) if len(some) > 1]
        return cls(model, [found[place] for place in may], [counts[place] for place in may])

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """A site a group."""
        return tuple(
            Site(group.name, "prune_channels", tuple(_options(group, some)))
            for group, some in zip(self.groups, self.counts, strict=True)
        )

    def losses(self, batches: Batches, kind: Kinds) -> list[tuple[float, ...]]:
        """What each width of each group alone loses, in nats, its readers refitted; on inputs that refitted nothing."""
        folded = inference(self.model)
        fitted, held = parted(folded, batches, 2 * len(self.groups))
        judge = Judge.of(folded, held, kind)
        stops = [_stops(group.size, some) for group, some in zip(self.groups, self.counts, strict=True)]
        gone = eliminations(folded, self.groups, [fitted], stops)
        points = _tried(folded, [each.refitted if each else {} for each in gone], judge)
        plain = self._plain([place for place, each in enumerate(gone) if each is None], judge.yardstick)
        return [
            plain[place] if each is None else _curve(each.ranking.losses, points[place], [group.size - n for n in some])
            for place, (group, some, each) in enumerate(zip(self.groups, self.counts, gone, strict=True))
        ]

    def _plain(self, places: Sequence[int], original: OriginalOutputs) -> dict[int, tuple[float, ...]]:
        """What the widths of some groups lose as they are, not repaired: nothing tells what a repair would do."""
        lost = {}
        norms = l2(self.model.module, [self.groups[place] for place in places])
        for place, ranking in zip(places, map(Ranking.of, norms), strict=True):
            group, (_, *fewer) = self.groups[place], self.counts[place]
            small = (edits_for(self.model.module, [group], [ranking.left(count)]) for count in fewer)
            losses = [original.nats(edit(self.model.module, edits)) for edits in small]
            lost[place] = (0.0, *np.maximum.accumulate(losses).tolist())
        return lost

    def named(self, chosen: Sequence[int]) -> tuple[str, ...]:
        """The chosen widths as a recipe spells them out; groups that stay whole are not named."""
        return tuple(
            f"{group.name}={some[option]}"
            for group, some, option in zip(self.groups, self.counts, chosen, strict=True)
            if option
        )


def _options(group: ChannelGroup, counts: Sequence[int]) -> Iterator[Option]:
    yield Option(f"all {group.size} channels")
    yield from (Option(f"{count} of {group.size} channels", Width(group.name, count)) for count in counts[1:])


def _counts(module: nn.Module, group: ChannelGroup, multiple: int) -> list[int]:
    """A few counts, evenly spread from the whole group down to a fifth of it."""
    first = group.members[0]
    width = named_tensors(module)[first.tensor].shape[first.dim]
    while multiple >= 2 * _FINEST and width < _FEWEST * multiple:
        multiple //= 2
    steps = rungs(module, group, multiple, _LEAST_SHARE)
    places = np.unique(np.linspace(0, len(steps) - 1, _MOST).round().astype(int))
    return [steps[place] for place in places]


def _stops(size: int, counts: Sequence[int]) -> list[int]:
    """How many channels are gone where a loss is tried: about half of them, and most of them."""
    *others, least = counts[1:]
    half = min(others, key=lambda count: abs(count - size / 2), default=least)
    return sorted({size - half, size - least})


def _tried(folded: Folded, refitted: Sequence[Mapping[int, Tensors]], judge: Judge) -> list[dict[int, float]]:
    """For each group, by the number of channels that are gone, how far the outputs move with the refitted readers."""
    places = {node: place for place, node in enumerate(folded.graph.nodes)}
    first = {
        group: min((folded.layer_of(name) for tensors in some.values() for name in tensors), key=places.__getitem__)
        for group, some in enumerate(refitted)
        if some
    }
    tried: list[dict[int, float]] = [{} for _ in refitted]
    for group in track(sorted(first, key=lambda group: places[first[group]]), "trying widths", len(first)):
        whole = judge.before(first[group])
        for gone, tensors in refitted[group].items():
            narrow = whole.fork()
            narrow.tensors |= tensors
            tried[group][gone] = judge.nats(narrow)
    return tried


def _curve(errors: Sequence[float], tried: Mapping[int, float], gone: Sequence[int]) -> tuple[float, ...]:
    """What it loses that so many channels are `gone`: in powers of their `errors`, through the losses `tried`."""
    known = sorted(tried)
    at, losses = (np.log(np.maximum(some, _TINY)) for some in ([errors[n] for n in known], [tried[n] for n in known]))
    losses = np.maximum.accumulate(losses)
    wanted = np.log(np.maximum([errors[n] for n in gone], _TINY))
    logs = np.interp(wanted, at, losses) + np.minimum(wanted - at[0], 0)
    return (0.0, *np.exp(logs[1:]).tolist())
