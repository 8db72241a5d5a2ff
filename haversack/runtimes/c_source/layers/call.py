"""Call: what a layer is written as: a kernel, a record of plain numbers, and the values that it reads and makes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from haversack.errors import ExportError
from haversack.graph.memory import Overlap
from haversack.integer import IntegerGraph, Operation, Value
from haversack.integer.arithmetic import Multiplier
from haversack.integer.parameters import Output
from haversack.runtimes.c_source.constants import Constants, Entry, brief
from haversack.runtimes.c_source.layers.storage import Stored
from haversack.runtimes.c_source.texts import on_numbers


@dataclass(frozen=True)
class Call:
    """A kernel, what it is told, and the values that it reads and makes."""

    kernel: str
    record: str
    entries: Mapping[str, Entry]
    reads: tuple[str, ...]
    makes: str
    scratch_words: int = 0
    spare_words: int = 0
    """What it may read behind a value, whatever is there."""
    flags: frozenset[str] = frozenset()
    """What the kernels' text is switched on for."""
    overwrites: tuple[Overlap, ...] = ()
    """How what it makes may lie over what it reads."""


@dataclass(frozen=True)
class Layer:
    """An operation of a graph, with the constants of its file."""

    graph: IntegerGraph
    operation: Operation
    constants: Constants
    stored: Mapping[str, Stored] = field(default_factory=dict)
    """Weights as they are kept, by what their layer makes."""

    @property
    def name(self) -> str:
        """What it is called in C, more or less."""
        return brief(self.operation.path) or self.operation.kind.lower()

    @property
    def result(self) -> Value:
        """What it makes, the first of several."""
        return self.graph.values[self.operation.outputs[0]]

    def value(self, name: str) -> Value:
        """What it reads as its `name`."""
        return self.graph.values[self.operation.input(name)]

    def refuse(self, why: str) -> ExportError:
        """The error of a layer that cannot be written."""
        return ExportError(
            f"the C writer has no {self.operation.kind} {why}.",
            where=self.name,
            mend="pack it for a device that runs tflite-micro, or leave this part of the network out.",
        )

    def computed(self) -> Iterator[Value]:
        """The values that it reads and makes, but for constants that only say how."""
        values = (self.graph.values[name] for name in (*self.operation.inputs, *self.operation.outputs) if name)
        return (value for value in values if value.data is None or value.grid is not None)

    def call(self, kernel: str, record: str, entries: Mapping[str, Entry], *reads: Value, **more: Any) -> Call:  # noqa: ANN401 - as Call has them
        """A kernel that makes the layer's one value of these."""
        kernel, record = on_numbers(kernel, record, self.result.dtype)
        wide = "int16" in (self.result.dtype, *(value.dtype for value in reads))
        flags = more.pop("flags", frozenset()) | ({"16_BITS"} if wide else set())
        return Call(
            kernel, record, entries, tuple(value.name for value in reads), self.result.name, flags=flags, **more
        )

    def in_turn(self) -> tuple[Overlap, ...]:
        """Each number is made of those in its place: what is made may lie over what is read of its shape."""
        values = (self.graph.values[name] for name in self.operation.inputs if name)
        alike = (value for value in values if (value.shape, value.dtype) == (self.result.shape, self.result.dtype))
        return tuple(Overlap(value.name, self.result.name) for value in alike)


def span(value: Value) -> int:
    """The farthest that a number is from its zero point, or from zero."""
    return 255 if value.dtype == "int8" else 1 << 15


def factor(by: Multiplier, name: str = "") -> dict[str, Entry]:
    """A fixed-point factor; its shift goes right."""
    return {f"{name}factor": int(by.mantissa), f"{name}shift": -int(by.shift)}


def limits(output: Output) -> dict[str, Entry]:
    """Between which numbers results are kept."""
    return {"low": int(output.low), "high": int(output.high)}


def ending(output: Output) -> dict[str, Entry]:
    """How results end."""
    return {"zero": output.zero_point, **limits(output)}
