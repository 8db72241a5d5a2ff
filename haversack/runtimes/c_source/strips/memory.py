"""Memory of runs: how long what they read and make is alive, and what may lie over what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from haversack.graph.memory import Buffer, Overlap, bounds
from haversack.integer import IntegerGraph
from haversack.integer.memory import Streamed, lifetimes, rounded, sharing
from haversack.runtimes.c_source.layers.call import Call
from haversack.runtimes.c_source.strips.rows import RowStrip
from haversack.runtimes.c_source.strips.schedule import StripLine, StripOperation, StripRun, distinct

WORD = 4
CallsOf = Callable[[StripOperation, RowStrip], Sequence[Call]]
"""The kernels that compute a strip of an operation."""


class RunMemory:
    """A graph's memory, as runs change it."""

    def __init__(self, graph: IntegerGraph, calls: CallsOf) -> None:
        self._owners, self._calls = sharing(graph), calls
        self._whole = {buffer.name: buffer for buffer in lifetimes(graph)}
        self._alive = bounds([rounded(buffer, WORD) for buffer in self._whole.values()])
        self._overlaps_known: dict[tuple[StripOperation, str], Overlap | None] = {}
        self._scratch_known: dict[StripOperation, int] = {}
        self._ways_known: dict[tuple[StripOperation, str], Mapping[int, Overlap]] = {}

    def streamed(self, runs: Sequence[StripRun]) -> Streamed:
        """How large values are, how long they are alive, and which may share bytes, where runs change that."""
        buffers = dict(self._whole)
        for run in runs:
            buffers |= {buffer.name: buffer for buffer in self._buffers(run, buffers)}
        changed = {name: buffer for name, buffer in buffers.items() if buffer != self._whole[name]}
        overlaps = tuple(overlap for run in runs for overlap in self._overlaps(run))
        return Streamed(changed, overlaps, frozenset(each.place for run in runs for each in run.operations))

    def needs(self, run: StripRun) -> int:
        """The bytes that the worst layer of a run needs at least, with all that lies beside it."""
        changed, first = [rounded(buffer, WORD) for buffer in self._buffers(run, self._whole)], run.first
        overlaps = [replace(each, distance=-(-each.distance // WORD) * WORD) for each in self._overlaps(run)]
        inside = bounds(changed, overlaps)
        before = [rounded(self._whole[buffer.name], WORD) for buffer in changed]
        return max(
            self._alive[place]
            - sum(buffer.size_bytes for buffer in before if buffer.first <= place <= buffer.last)
            + inside[place]
            + self._scratch_bytes(run.operations[place - first])
            for place in range(first, run.last + 1)
        )

    def _scratch_bytes(self, each: StripOperation) -> int:
        """What an operation needs beside its values, in the strip that needs most."""
        if each not in self._scratch_known:
            words = (call.scratch_words for strip in distinct(each.strips) for call in self._calls(each, strip))
            self._scratch_known[each] = max(words, default=0) * WORD
        return self._scratch_known[each]

    def _buffers(self, run: StripRun, before: Mapping[str, Buffer]) -> Iterator[Buffer]:
        """Those of what a run reads and makes: rows that are kept, and whole values, are there from strip to strip."""
        for each in run.operations:
            buffer, line = before[each.line.value.name], each.line
            if line.is_whole:
                yield replace(buffer, first=run.first, last=max(buffer.last, run.last))
            elif line.carries:
                yield Buffer(buffer.name, line.size_bytes, run.first, run.last)
            else:
                yield replace(buffer, size_bytes=line.size_bytes)
        for name in self._read(run):
            yield replace(before[name], last=max(before[name].last, run.last))

    def _read(self, run: StripRun) -> list[str]:
        """The owners of what a run reads and does not make."""
        names = {name for each in run.operations for name in each.operation.inputs}
        return sorted({self._owners[name] for name in names if name in self._owners} - run.lines.keys())

    def _overlaps(self, run: StripRun) -> Iterator[Overlap]:
        """What may lie over what."""
        read = self._read(run)
        for each in run.operations:
            for name in each.windows:
                line = run.lines.get(name)
                if line is not None and (overlap := self._over_strip(each, line)) is not None:
                    yield overlap
            if each.line.is_whole:
                yield from self._over_read(run, each, read)

    def _over_strip(self, each: StripOperation, read: StripLine) -> Overlap | None:
        """Over rows that last for a strip, by their last reader: its new rows begin behind those that are kept."""
        key = each, read.value.name
        if key not in self._overlaps_known:
            lasts = read.carries or each.line.is_whole or self._whole[read.value.name].last != each.place
            self._overlaps_known[key] = None if lasts else self._over_rows(each, read)
        return self._overlaps_known[key]

    def _over_rows(self, each: StripOperation, read: StripLine) -> Overlap | None:
        name, made, ways = read.value.name, each.line, self._ways(each, read.value.name)
        if not ways:
            return None
        ahead = {strip: each.begins(name, strip, read) for strip in ways}
        if all(way.exact for way in ways.values()):
            return None if made.carries or any(ahead.values()) else Overlap(name, made.value.name, exact=True)
        if any(way.exact for way in ways.values()):
            return None
        kept = (made.place(strip) for strip in range(len(each.strips)))
        further = (made.place(strip) + way.distance - ahead[strip] for strip, way in ways.items())
        return Overlap(name, made.value.name, max(*kept, *further))

    def _ways(self, each: StripOperation, name: str) -> Mapping[int, Overlap]:
        """How the kernel of each strip may write over what it reads there; nothing where one may not."""
        key = each, name
        if key not in self._ways_known:
            used = {strip: self._way(each, rows, name) for strip, rows in enumerate(each.strips) if rows is not None}
            ways = {strip: way for strip, way in used.items() if way is not None}
            self._ways_known[key] = ways if len(ways) == len(used) else {}
        return self._ways_known[key]

    def _way(self, each: StripOperation, strip: RowStrip, name: str) -> Overlap | None:
        calls = self._calls(each, strip)
        overwrites = [way for call in calls for way in call.overwrites if way.read == name]
        return overwrites[0] if len(calls) == 1 and overwrites else None

    def _over_read(self, run: StripRun, each: StripOperation, owners: Iterable[str]) -> Iterator[Overlap]:
        """Over what was there before the run and is not read after it: what is made follows behind its last reader."""
        for owner in owners:
            reads = [
                (reader, name)
                for reader in run.operations
                for name in reader.operation.inputs
                if self._owners.get(name) == owner
            ]
            by_rows = all(name in reader.windows for reader, name in reads)
            if by_rows and self._whole[owner].last <= run.last:
                distance = max(self._behind(each, reader, name) for reader, name in reads)
                yield Overlap(owner, each.line.value.name, distance)

    def _behind(self, each: StripOperation, reader: StripOperation, name: str) -> int:
        """By how many bytes what is made would overtake this reader, did both begin at the same place."""
        made, read = each.line.made, reader.line.made
        begins = np.maximum(reader.windows[name].begin(read), 0) * reader.row_bytes[name]
        makes, reads_on = np.diff(made) > 0, read < read[-1]
        ends = made[1:] * each.line.row_bytes
        after = int(np.max(ends - begins[1:], initial=0, where=makes & reads_on[1:]))
        if reader.place < each.place:
            return after
        # What runs later in a strip has not read the strip's rows yet; nor has a kernel that does not say how it reads.
        ways = self._ways(each, name) if reader is each else {}
        if not ways or any(way.exact for way in ways.values()):
            return int(np.max(ends - begins[:-1], initial=0, where=makes & reads_on[:-1]))
        places = {strip: int(made[strip]) * each.line.row_bytes for strip in ways}
        return max(after, *(places[strip] + way.distance - int(begins[strip]) for strip, way in ways.items()))
