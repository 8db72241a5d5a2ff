"""Schedule: which rows each operation of a run makes in each strip, and which rows are kept from strip to strip.

A strip is some rows of what the last operation makes; before them come the rows of all other values that they need and
that nobody made yet, so nothing is computed twice (Alwani et al. 2016, "Fused-layer CNN accelerators"). A value keeps
the rows that a later strip still reads, in the first rows of its memory, to which they are moved before a strip begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from haversack.integer import Array, IntegerGraph, Operation, Value
from haversack.runtimes.c_source.strips.rows import RowStrip, RowWindow, row_bytes, row_count, row_windows


@dataclass(frozen=True, eq=False)
class StripLine:
    """A value of a run: how many rows of it there are after each strip, none before the first, and which it keeps."""

    value: Value
    made: Array
    base: Array
    """The row that the first one in its memory is, in each strip."""
    is_whole: bool
    """Whether all of it is there in the end, for those who read it behind the run."""

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return row_bytes(self.value)

    @cached_property
    def size_bytes(self) -> int:
        """Of the most rows that are there at a time."""
        return int(np.max(self.made[1:] - self.base)) * self.row_bytes

    @cached_property
    def carries(self) -> bool:
        """Whether rows outlast the strip that made them."""
        return self.is_whole or bool(np.any(self.made[1:-1] > self.base[1:]))

    def place(self, strip: int) -> int:
        """Where the first row that this strip makes lies, in bytes."""
        return int(self.made[strip] - self.base[strip]) * self.row_bytes

    def moved(self, strip: int) -> tuple[int, int]:
        """By how many bytes rows move up before a strip, and how many bytes they are."""
        if strip == 0:
            return 0, 0
        rows = max(int(self.made[strip] - self.base[strip]), 0)
        by = int(self.base[strip] - self.base[strip - 1])
        return (by * self.row_bytes, rows * self.row_bytes) if rows and by else (0, 0)

    @cached_property
    def moved_bytes(self) -> int:
        """Of all rows that move, before all strips."""
        return sum(self.moved(strip)[1] for strip in range(len(self.base)))


@dataclass(frozen=True, eq=False)
class StripOperation:
    """An operation of a run, by its place in the graph; the rows that it makes in each strip, None where none."""

    place: int
    operation: Operation
    windows: Mapping[str, RowWindow]
    row_bytes: Mapping[str, int]
    """Of the values that have a window."""
    line: StripLine
    strips: tuple[RowStrip | None, ...]

    def begins(self, name: str, strip: int, line: StripLine | None) -> int:
        """How far behind the begin of a value's memory it begins to read in a strip; a whole value has no line."""
        if name not in self.windows:
            return 0
        first = max(self.windows[name].begin(int(self.line.made[strip])), 0)
        return (first - (0 if line is None else int(line.base[strip]))) * self.row_bytes[name]


@dataclass(frozen=True, eq=False)
class StripRun:
    """Operations one after the other, computed strip by strip."""

    operations: tuple[StripOperation, ...]

    @property
    def first(self) -> int:
        """The place of the first operation."""
        return self.operations[0].place

    @property
    def last(self) -> int:
        """The place of the last operation."""
        return self.operations[-1].place

    @property
    def count(self) -> int:
        """How many strips there are."""
        return len(self.operations[0].strips)

    @cached_property
    def lines(self) -> Mapping[str, StripLine]:
        """The values that are made, by name."""
        return {each.line.value.name: each.line for each in self.operations}


class RowGraph:
    """A graph whose operations are known by rows, where they can be."""

    def __init__(self, graph: IntegerGraph) -> None:
        self.graph = graph
        self.windows = [row_windows(graph, operation) for operation in graph.operations]
        self._readers: dict[str, list[int]] = {}
        for place, operation in enumerate(graph.operations):
            for name in operation.inputs:
                self._readers.setdefault(name, []).append(place)

    def runs(self, last: int, rows: int) -> Iterator[StripRun]:
        """The runs that end with this operation, so many rows of whose result are a strip; the shortest first."""
        after: dict[int, StripOperation] = {}
        if self.windows[last] and rows >= row_count(self.graph.values[self.graph.operations[last].outputs[0]]):
            return
        for place in range(last, -1, -1):
            windows = self.windows[place]
            line = self._line(place, last, rows, after) if windows else None
            if line is None or windows is None:
                return
            sizes = {name: row_bytes(self.graph.values[name]) for name in windows}
            strips = tuple(self._strips(line, windows))
            after[place] = StripOperation(place, self.graph.operations[place], windows, sizes, line, strips)
            if place < last:
                yield StripRun(tuple(after[each] for each in range(place, last + 1)))

    def _line(self, place: int, last: int, rows: int, after: Mapping[int, StripOperation]) -> StripLine | None:
        """How the operation's result is made; None where a later operation reads all of it for each row."""
        name = self.graph.operations[place].outputs[0]
        value, readers = self.graph.values[name], self._readers.get(name, [])
        height = row_count(value)
        inside = [(after[each].line.made, after[each].windows.get(name)) for each in readers if each <= last]
        if place == last:
            made = np.minimum(np.arange(-(-height // rows) + 1) * rows, height)
        else:
            made = np.zeros(len(after[last].line.made), np.int64)
        kept = np.full(len(made) - 1, height)
        for theirs, window in inside:
            if window is None:
                return None
            made = np.maximum(made, np.where(theirs > 0, np.clip(window.end(theirs), 0, height), 0))
            reads_on = theirs[:-1] < theirs[-1]
            kept = np.where(reads_on, np.minimum(kept, np.maximum(window.begin(theirs[:-1]), 0)), kept)
        is_whole = place == last or name in self.graph.outputs or any(each > last for each in readers)
        if is_whole:
            made[-1] = height
        base = np.zeros_like(kept) if is_whole else np.minimum(kept, made[:-1])
        return StripLine(value, made, base, is_whole)

    def _strips(self, line: StripLine, windows: Mapping[str, RowWindow]) -> Iterator[RowStrip | None]:
        name, window = next(iter(windows.items()))
        height = row_count(self.graph.values[name])
        for made, end in zip(line.made[:-1].tolist(), line.made[1:].tolist(), strict=True):
            yield RowStrip.between(made, end, window, height) if end > made else None


def distinct(strips: Sequence[RowStrip | None]) -> list[RowStrip]:
    """Each kind of strip once, in their order."""
    return list(dict.fromkeys(strip for strip in strips if strip is not None))
