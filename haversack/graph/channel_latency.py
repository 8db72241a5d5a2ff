"""What a network's latency is, measured, for choices of how many channels each group keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import nn

from haversack.errors import HaversackError
from haversack.graph.channel_cost import Counts
from haversack.graph.groups import ChannelGroup
from haversack.graph.surgery import edit, edits_for
from haversack.model import Model, Target

# Latency between two counts is taken to be a line: so many counts of each group are timed, the whole one besides.
_TIMED = 2
# A search asks for many fractions of one network.
_measured: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], MeasuredCost]] = WeakKeyDictionary()


@dataclass(frozen=True)
class MeasuredCost:
    """Milliseconds a sample: what the whole network takes, less what each group saves by itself.

    `counts` and `saved` hold, for each group, the numbers of channels that were timed, ascending, and the milliseconds
    that they save.
    """

    whole_ms: float
    counts: tuple[tuple[int, ...], ...]
    saved: tuple[tuple[float, ...], ...]

    def of(self, kept: Counts) -> float:
        """The latency when group i keeps `kept[i]` of its channels."""
        return self.whole_ms - sum(self._saved(place, int(count)) for place, count in enumerate(kept))

    def savings(self, kept: Counts, fewer: Counts) -> NDArray[np.float64]:
        """How much faster it gets when group i alone loses `fewer[i]` more."""
        pairs = enumerate(zip(kept.tolist(), fewer.tolist(), strict=True))
        return np.array([self._saved(place, left - less) - self._saved(place, left) for place, (left, less) in pairs])

    def _saved(self, place: int, count: int) -> float:
        return float(np.interp(count, self.counts[place], self.saved[place]))


def measured_cost(model: Model, groups: Sequence[ChannelGroup], rungs: Sequence[Sequence[int]]) -> MeasuredCost:
    """The latency model of a network, from the device's runtime: each group is timed alone at a few of its counts.

    Which channels go makes no difference to the time: the last ones do. More channels are never taken to be faster, so
    that noise saves nothing. What was timed once for a network is not timed again.
    """
    if model.target is None:
        raise HaversackError("there is no runtime to measure on.", mend="prune by macs, or give a device.")
    known = _measured.setdefault(model.module, {})
    asked = (repr(model.target), tuple(map(tuple, rungs)))
    if asked not in known:
        known[asked] = _measure(model, model.target, groups, rungs)
    return known[asked]


def _measure(
    model: Model, target: Target, groups: Sequence[ChannelGroup], rungs: Sequence[Sequence[int]]
) -> MeasuredCost:
    timed = [_timed(each) for each in rungs]
    tried = [_with_fewer(model, groups, place, count) for place, few in enumerate(timed) for count in few]
    whole, *times = target.latencies_ms([model, *tried])
    counts, saved = [], []
    for group, few in zip(groups, timed, strict=True):
        spans = [whole - times.pop(0) for _ in few]
        counts.append((*reversed(few), group.size))
        saved.append((*np.maximum.accumulate([0.0, *spans])[:0:-1].tolist(), 0.0))
    return MeasuredCost(whole, tuple(counts), tuple(saved))


def _timed(rungs: Sequence[int]) -> list[int]:
    """A few of the rungs below the whole group, evenly spread, the lowest among them; descending."""
    places = np.linspace(0, len(rungs) - 1, _TIMED + 1).round().astype(int)[1:]
    return [rungs[place] for place in np.unique(places[places > 0])]


def _with_fewer(model: Model, groups: Sequence[ChannelGroup], place: int, count: int) -> Model:
    kept = [range(count if place == other else group.size) for other, group in enumerate(groups)]
    edits = edits_for(model.module, groups, kept)
    return model.with_module(edit(model.module, edits), edits)
