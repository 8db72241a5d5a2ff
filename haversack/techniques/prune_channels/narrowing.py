"""Narrowing: the widths that each channel group of a network may have, and what each of them loses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from torch import nn

from haversack.calibration.currency import Yardstick
from haversack.channels.group import ChannelGroup, edits_for
from haversack.channels.groups import channel_groups
from haversack.choices import Option, Site, Width
from haversack.graph.run import Batches, joined, named_tensors
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.surgery.edit import edit
from haversack.task import Kind
from haversack.techniques.prune_channels.importance import Ranking, l2
from haversack.techniques.prune_channels.ladder import rungs
from haversack.techniques.prune_channels.order import lost_nats

_LEAST_SHARE, _MOST = 0.2, 8
"""Of a group's channels that may be left, and how many widths it may have, the whole one among them."""
_FINEST, _FEWEST = 4, 6
"""Blocks of a device's size are halved in groups of fewer than so many, but not below so many channels."""
_SAMPLES = 256


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

    def losses(self, batches: Batches, kind: Kind) -> list[tuple[float, ...]]:
        """What each width of each group alone loses, in nats."""
        few = [joined(batches, _SAMPLES)]
        ranked = lost_nats(self.model, self.groups, few, kind)
        measured = iter(self._tried([place for place, found in enumerate(ranked) if found is None], few, kind))
        return [
            next(measured) if ranking is None else tuple(ranking.losses[group.size - count] for count in some)
            for group, some, ranking in zip(self.groups, self.counts, ranked, strict=True)
        ]

    def _tried(self, places: Sequence[int], batches: Batches, kind: Kind) -> Iterator[tuple[float, ...]]:
        """What the widths of some groups lose as they are, not repaired: nothing tells what a repair would do."""
        if not places:
            return
        original = Yardstick.of(self.model.module, batches, kind)
        norms = l2(self.model.module, [self.groups[place] for place in places])
        for place, ranking in zip(places, map(Ranking.of, norms), strict=True):
            group, (_, *fewer) = self.groups[place], self.counts[place]
            small = (edits_for(self.model.module, [group], [ranking.left(count)]) for count in fewer)
            losses = [original.nats(edit(self.model.module, edits)) for edits in small]
            yield (0.0, *np.maximum.accumulate(losses).tolist())

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
