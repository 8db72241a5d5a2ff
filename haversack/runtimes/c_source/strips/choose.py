"""Choice: which layers are computed in strips, so that all fits into so much memory and as little as can be costs more.

A network is cut into runs in strips and single layers between them. What each piece needs depends on no other one, so
the cheapest cut within a limit is the shortest way from its first layer behind its last one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from haversack.graph.memory import Overlap
from haversack.integer import IntegerGraph, Operation, memory
from haversack.integer.memory import Arena, Overwrites, Scratch, Streamed
from haversack.runtimes.c_source.constants import Constants
from haversack.runtimes.c_source.layers import calls
from haversack.runtimes.c_source.layers.call import Call, Layer
from haversack.runtimes.c_source.layers.storage import stored
from haversack.runtimes.c_source.strips.memory import WORD, RunMemory
from haversack.runtimes.c_source.strips.rows import RowStrip, calls_on_rows
from haversack.runtimes.c_source.strips.schedule import RowGraph, StripOperation, StripRun, distinct

_MOST_ROWS = 64
"""Of the last layer's result that a strip may be."""
_CALL, _CHANNEL, _WEIGHT_PAIR, _SPREAD_BYTE, _MOVED_BYTE = 60, 60, 25, 3.5, 1.5
"""Instructions on a Cortex-M4, more or less: of a call; in a depthwise one of each channel, of each pair of its weights
and of each byte that it reads again; and of each byte of a row that moves."""
_LANES = 4
"""Pixels that a convolution computes at once, also where there are fewer."""
_TRIES = 8
"""Choices whose arena is planned, where those before them do not come down to what they need at least."""

Runs = tuple[StripRun, ...]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A piece of the network, from one layer to before another: what it needs and costs; its run, where it has one."""

    first: int
    end: int
    needs: int
    costs: int = 0
    run: StripRun | None = None


class Layouts:
    """What is called for each layer of a graph, and its arena, with some runs in strips or none."""

    def __init__(self, graph: IntegerGraph, constants: Constants) -> None:
        self.graph, self._constants, self._stored = graph, constants, stored(graph)
        self._whole = [calls(self._layer(operation)) for operation in graph.operations]
        self._places = {id(operation): place for place, operation in enumerate(graph.operations)}
        self._known: dict[tuple[int, RowStrip], tuple[Call, ...]] = {}
        self.memory = RunMemory(graph, self.of_strip)

    @cached_property
    def rows(self) -> RowGraph:
        """The graph by rows."""
        return RowGraph(self.graph)

    def of_strip(self, each: StripOperation, strip: RowStrip) -> tuple[Call, ...]:
        """The kernels that compute some rows of an operation of a run."""
        key = each.place, strip
        if key not in self._known:
            self._known[key] = calls_on_rows(self._layer(each.operation), each.windows, strip)
        return self._known[key]

    def _layer(self, operation: Operation) -> Layer:
        return Layer(self.graph, operation, self._constants, self._stored)

    def calls(self, runs: Runs) -> list[tuple[Call, ...]]:
        """All that is called for each layer, by its place."""
        found = list(self._whole)
        for each in (each for run in runs for each in run.operations):
            strips = distinct(each.strips)
            found[each.place] = tuple(call for strip in strips for call in self.of_strip(each, strip))
        return found

    def arena(self, runs: Runs = ()) -> Arena:
        """Where everything lies."""
        scratch, overwrites, changed = self._memory(runs)
        return memory.arena(self.graph, alignment=WORD, scratch=scratch, overwrites=overwrites, streamed=changed)

    def needs(self) -> list[int]:
        """The bytes that each layer needs at least, without strips."""
        scratch, overwrites, changed = self._memory(())
        found = memory.bounds(self.graph, alignment=WORD, scratch=scratch, overwrites=overwrites, streamed=changed)
        return found[: len(self._whole)]

    def _memory(self, runs: Runs) -> tuple[Scratch, Overwrites, Streamed]:
        """What the layers need beside their values, and what they may write over."""
        made = self.calls(runs)

        def scratch(_: IntegerGraph, operation: Operation) -> int:
            return max((call.scratch_words for call in made[self._places[id(operation)]]), default=0) * WORD

        def overwrites(_: IntegerGraph, operation: Operation) -> Iterator[Overlap]:
            whole = self._whole[self._places[id(operation)]]
            return (overlap for call in whole if len(whole) == 1 for overlap in call.overwrites)

        return scratch, overwrites, self.memory.streamed(runs)


def runs_within(layouts: Layouts, most_bytes: int) -> Runs:
    """The runs with which the arena is no larger, at the least costs; without such, those of the smallest arena."""
    sizes = {Runs(): layouts.arena().size_bytes}
    if sizes[()] <= most_bytes:
        return ()
    whole = [_Cut(place, place + 1, needs) for place, needs in enumerate(layouts.needs())]
    runs = _in_strips(layouts, {cut.first for cut in whole if cut.needs > most_bytes})
    cuts = sorted([*whole, *runs], key=lambda cut: cut.end)
    limit, least = most_bytes, _least(cuts)
    while limit >= least and len(sizes) <= _TRIES:
        chosen, needs = _cheapest(cuts, limit)
        sizes[chosen] = layouts.arena(chosen).size_bytes
        if sizes[chosen] <= most_bytes:
            return chosen
        limit = needs - max((sizes[chosen] - most_bytes) // _TRIES, 1)
    for share in range(_TRIES):
        chosen, _ = _cheapest(cuts, least + (sizes[()] - least) * share // _TRIES)
        if chosen not in sizes:
            sizes[chosen] = layouts.arena(chosen).size_bytes
    return min(sizes, key=lambda runs: sizes[runs])


def _in_strips(layouts: Layouts, tight: Iterable[int]) -> Iterator[_Cut]:
    """All runs with one of these layers in them."""
    for last in range(len(layouts.graph.operations)):
        for rows in (1 << power for power in range(_MOST_ROWS.bit_length())):
            for run in layouts.rows.runs(last, rows):
                if any(run.first <= place <= last for place in tight):
                    costs = _costs(layouts.graph, run)
                    yield _Cut(run.first, last + 1, layouts.memory.needs(run), costs, run)


def _costs(graph: IntegerGraph, run: StripRun) -> int:
    """The instructions that are executed more for a run than without strips, more or less."""
    moved = sum(line.moved_bytes for line in run.lines.values())
    counts = ((each, Counter(strip for strip in each.strips if strip is not None)) for each in run.operations)
    calls = sum(_call_costs(graph, each, strip) * count for each, strips in counts for strip, count in strips.items())
    return int(moved * _MOVED_BYTE + calls)


def _call_costs(graph: IntegerGraph, each: StripOperation, strip: RowStrip) -> float:
    """Of one call: in a convolution, lanes without a pixel; in a depthwise one, what is spread again."""
    if not each.operation.kind.endswith("CONV_2D"):
        return _CALL
    ((name, window),) = each.windows.items()
    weights = graph.values[each.operation.input("weight")].shape
    if each.operation.kind == "CONV_2D":
        pixels = strip.count * (each.line.value.shape[2] if window.axis == 1 else 1)
        return _CALL + -pixels % _LANES * math.prod(weights)
    again = max(window.reach - window.stride, 0) * each.row_bytes[name]
    channel = _CHANNEL + weights[1] * (weights[2] // 2 + 1) * _WEIGHT_PAIR
    return _CALL + weights[3] * channel + again * _SPREAD_BYTE


def _least(cuts: Iterable[_Cut]) -> int:
    """The smallest limit within which there is a way through all layers."""
    reached = {0: 0}
    for cut in cuts:
        needs = max(reached[cut.first], cut.needs)
        reached[cut.end] = min(reached.get(cut.end, needs), needs)
    return reached[max(reached)]


def _cheapest(cuts: Iterable[_Cut], limit: int) -> tuple[Runs, int]:
    """The runs on the cheapest way through all layers within a limit, and what the worst of its pieces needs."""
    ways = {0: (0, Runs(), 0)}
    for cut in cuts:
        if cut.first in ways and cut.needs <= limit:
            costs, runs, needs = ways[cut.first]
            way = costs + cut.costs, runs if cut.run is None else (*runs, cut.run), max(needs, cut.needs)
            if cut.end not in ways or way[0] < ways[cut.end][0]:
                ways[cut.end] = way
    return ways[max(ways)][1:]
