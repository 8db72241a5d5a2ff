"""Choice: which layers are computed in strips, so that all fits into so much memory and as little as can be costs more.

A network is cut into runs in strips and single layers between them. What each piece needs depends on no other one, so
the cheapest cut within a limit is the shortest way from its first layer behind its last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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

_ROWS = (1, 2, 4, 8)
"""Of the last layer's result that a strip may be."""
_CALL_COSTS, _WEIGHT_COSTS = 64, 16
"""What a call by itself costs, and each weight of a depthwise one, in bytes that could be moved in its time."""
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
        self._graph, self._constants, self._stored = graph, constants, stored(graph)
        self._whole = [calls(self._layer(operation)) for operation in graph.operations]
        self._places = {id(operation): place for place, operation in enumerate(graph.operations)}
        self._known: dict[tuple[int, RowStrip], tuple[Call, ...]] = {}
        self.memory = RunMemory(graph, self.of_strip)

    def of_strip(self, each: StripOperation, strip: RowStrip) -> tuple[Call, ...]:
        """The kernels that compute some rows of an operation of a run."""
        key = each.place, strip
        if key not in self._known:
            self._known[key] = calls_on_rows(self._layer(each.operation), each.windows, strip)
        return self._known[key]

    def _layer(self, operation: Operation) -> Layer:
        return Layer(self._graph, operation, self._constants, self._stored)

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
        return memory.arena(self._graph, alignment=WORD, scratch=scratch, overwrites=overwrites, streamed=changed)

    def needs(self) -> list[int]:
        """The bytes that each layer needs at least, without strips."""
        scratch, overwrites, changed = self._memory(())
        found = memory.bounds(self._graph, alignment=WORD, scratch=scratch, overwrites=overwrites, streamed=changed)
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


def runs_within(layouts: Layouts, graph: IntegerGraph, most_bytes: int) -> Runs:
    """The runs with which the arena is no larger, at the least costs; without such, those of the smallest arena."""
    sizes = {Runs(): layouts.arena().size_bytes}
    if sizes[()] <= most_bytes:
        return ()
    whole = [_Cut(place, place + 1, needs) for place, needs in enumerate(layouts.needs())]
    runs = _in_strips(layouts, graph, {cut.first for cut in whole if cut.needs > most_bytes})
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


def _in_strips(layouts: Layouts, graph: IntegerGraph, tight: Iterable[int]) -> Iterator[_Cut]:
    """All runs with one of these layers in them."""
    rows_of = RowGraph(graph)
    for last in range(len(graph.operations)):
        for rows in _ROWS:
            for run in rows_of.runs(last, rows):
                if any(run.first <= place <= last for place in tight):
                    needs = layouts.memory.needs(run)
                    yield _Cut(run.first, last + 1, needs, _costs(run), run)


def _costs(run: StripRun) -> int:
    """The bytes that are moved, or read once more, and what could be moved in the time of the calls."""
    moved = sum(line.moved(strip)[1] for line in run.lines.values() for strip in range(run.count))
    return moved + sum(_call_costs(each) * sum(strip is not None for strip in each.strips) for each in run.operations)


def _call_costs(each: StripOperation) -> int:
    """Of one call more: a depthwise convolution spreads its weights again, and the rows that were read before."""
    if each.operation.kind != "DEPTHWISE_CONV_2D":
        return _CALL_COSTS
    ((name, window),) = each.windows.items()
    weights = each.line.value.shape[3] * window.reach**2
    return _CALL_COSTS + _WEIGHT_COSTS * weights + max(window.reach - window.stride, 0) * each.row_bytes[name]


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
