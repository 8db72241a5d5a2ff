"""Loops: a run's strips in C: those that are alike in a loop, the first and last ones by themselves."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from haversack.runtimes.c_source.layers.call import Call
from haversack.runtimes.c_source.strips.memory import CallsOf
from haversack.runtimes.c_source.strips.schedule import StripOperation, StripRun

Begun = Callable[[Call, StripOperation], str]
"""A call as far as the places of what it reads and makes, which it has as {}."""


@dataclass(frozen=True)
class _Statement:
    """A statement with {} for each of its places, and those: bytes from the arena's begin on."""

    text: str
    places: tuple[int, ...]

    def written(self, steps: Sequence[int], indent: str) -> str:
        """Itself, in a loop whose places move on by these steps."""
        places = (
            f"memory + {place}" + f" + strip * {step}" * bool(step)
            for place, step in zip(self.places, steps, strict=True)
        )
        return indent + self.text.format(*places)


@dataclass(frozen=True, eq=False)
class StripLoops:
    """A run with all that is written of it."""

    run: StripRun
    calls: CallsOf
    offsets: Mapping[str, int]
    begun: Begun

    def written(self) -> Iterator[str]:
        """The statements of the run."""
        strips = [list(self._statements(strip)) for strip in range(self.run.count)]
        first = 0
        while first < len(strips):
            steps, count = _alike(strips[first:])
            indent = "    " if count == 1 else "        "
            if count > 1:
                yield f"    for (int32_t strip = 0; strip < {count}; strip++) {{"
            for statement, step in zip(strips[first], steps, strict=True):
                yield statement.written(step, indent)
            if count > 1:
                yield "    }"
            first += count

    def _statements(self, strip: int) -> Iterator[_Statement]:
        for name, line in self.run.lines.items():
            by, size_bytes = line.moved(strip)
            if by:
                yield _Statement(f"keep({{}}, {by}, {size_bytes});", (self.offsets[name],))
        for each in self.run.operations:
            rows = each.strips[strip]
            for call in self.calls(each, rows) if rows is not None else ():
                read = [name for name in call.reads if name in self.offsets]
                places = [self.offsets[name] + each.begins(name, strip, self.run.lines.get(name)) for name in read]
                made = self.offsets[call.makes] + each.line.place(strip)
                yield _Statement(self.begun(call, each), (*places, made))


def _alike(strips: Sequence[Sequence[_Statement]]) -> tuple[list[tuple[int, ...]], int]:
    """By how much the places of the first strip's statements move on, and for how many strips that holds."""
    first, steps, count = strips[0], [(0,) * len(each.places) for each in strips[0]], 1
    for before, after in itertools.pairwise(strips):
        if [each.text for each in after] != [each.text for each in first]:
            break
        moves = [
            tuple(b - a for a, b in zip(one.places, other.places, strict=True))
            for one, other in zip(before, after, strict=True)
        ]
        if count > 1 and moves != steps:
            break
        steps, count = moves, count + 1
    return steps, count
