"""The integer graph: TFLite's operations on values whose grids are settled, in the layout that devices compute in.

Every writer of integer files and the NumPy reference read this one graph, so that they agree to the bit. A kind is the
name of TFLite's builtin operator and means what TFLite's specification says: activations are channels-last (NHWC; a
1-D convolution is a CONV_2D of height 1), weights of CONV_2D and TRANSPOSE_CONV are (out, height, width, in), of
DEPTHWISE_CONV_2D (1, height, width, out), of FULLY_CONNECTED (out, in). Padding is explicit: convolutions and pools are
written "VALID" after a PAD, or "SAME" where TensorFlow's SAME gives the same. An operation all of whose values have
grids is computed on integers; one whose values have none is computed in float32; QUANTIZE and DEQUANTIZE lie between.
A FULLY_CONNECTED of real numbers by integer weights rounds each row that it reads to 8 bits that span it and zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from haversack.errors import ExportError
from haversack.grid import Grid
from haversack.integer.arithmetic import Array
from haversack.integer.kinds import FLOAT, KINDS, Input, OptionKind

__all__ = ["KINDS", "Array", "IntegerGraph", "Operation", "Value", "check"]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor: what an operation reads or writes, for a batch of one.

    `grid` says what the integers stand for; None means real numbers (float32), or plain integers such as axes and
    shapes. `data` holds a constant's numbers, one int8 an element whatever the grid's bits; writers pack them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None = None
    data: Array | None = None


@dataclass(frozen=True)
class Operation:
    """One of TFLite's builtin operators. What it reads, and which options it has, says its row of `KINDS`.

    An input that is left out (a bias) is "", or missing at the end.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""

    def renamed(self, names: Mapping[str, str]) -> Operation:
        """The same operation on values of other names."""
        inputs, outputs = (tuple(names.get(name, name) for name in ends) for ends in (self.inputs, self.outputs))
        return replace(self, inputs=inputs, outputs=outputs)

    def input(self, name: str) -> str:
        """The value that it reads as its `name`, such as "bias"; "" where that is left out."""
        place = KINDS[self.kind].place(name)
        return self.inputs[place] if place < len(self.inputs) else ""

    def option(self, name: str) -> Any:  # noqa: ANN401 - a number, a flag, a word or a pair
        """What the option is set to, or its default. Raises ExportError where it has neither."""
        return self._setting(next(row for row in KINDS[self.kind].options if row.name == name))

    def settings(self) -> dict[str, Any]:
        """All options, defaults among them. Raises ExportError for one that `KINDS` does not allow."""
        rows = KINDS[self.kind].options
        unknown = sorted(set(self.options) - {row.name for row in rows})
        if unknown:
            raise ExportError(f"{self.kind} has no option {', '.join(unknown)}.", where=self.path)
        return {row.name: self._setting(row) for row in rows}

    def _setting(self, row: OptionKind) -> Any:  # noqa: ANN401
        value = self.options.get(row.name, row.default)
        if value is None:
            raise ExportError(f"{self.kind} does not say its {row.name}.", where=self.path)
        if not row.allows(value):
            raise ExportError(f"{self.kind} cannot have {value!r} as its {row.name}.", where=self.path)
        return value


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """Operations in an order in which they can run, the values between them, and how torch's inputs are laid out.

    `input_orders` and `output_orders` say for each input and output which of torch's dimensions stand along its axes:
    (0, 2, 3, 1) is NHWC.
    """

    values: Mapping[str, Value]
    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_orders: tuple[tuple[int, ...], ...]
    output_orders: tuple[tuple[int, ...], ...]

    def constants(self) -> Iterator[Value]:
        """The values that are stored in a file."""
        return (value for value in self.values.values() if value.data is not None)


def check(graph: IntegerGraph) -> None:
    """Nothing, or an ExportError for the first operation that `KINDS` does not allow, or that reads what is not there.

    A graph that passes has all its values, one maker for each, before whoever reads it; computes in types that there
    are kernels for, with the constants and options that they need. Shapes are not looked at.
    """
    stored = {value.name for value in graph.constants()}
    ready = stored.union(graph.inputs)
    for operation in graph.operations:
        for wrong in _wrong(graph, operation, ready, stored):
            raise ExportError(wrong, where=operation.path)
        ready.update(operation.outputs)
        if operation.kind == "DEQUANTIZE" and stored.issuperset(operation.inputs):
            stored.update(operation.outputs)
    if not ready.issuperset(graph.outputs):
        raise ExportError(f"no operation makes {', '.join(sorted(set(graph.outputs) - ready))}.")


def _wrong(graph: IntegerGraph, operation: Operation, ready: set[str], stored: set[str]) -> Iterator[str]:
    """What is wrong with an operation, when these values are `ready` and some of them are constants."""
    name, kind = operation.kind, KINDS.get(operation.kind)
    if kind is None:
        yield f"the integer graph has no {name}."
        return
    wanted, unknown = operation.settings().get("num_splits", 1), set(operation.outputs) - graph.values.keys()
    if len(operation.outputs) != wanted or unknown:
        yield f"{name} makes {', '.join(sorted(unknown)) or len(operation.outputs)}, and should make {wanted} values."
        return
    if not ready.isdisjoint(operation.outputs) or len(set(operation.outputs)) < wanted:
        yield f"{name} makes a value that is there already."
    made = graph.values[operation.outputs[0]]
    if any(graph.values[output].dtype != made.dtype for output in operation.outputs) or made.dtype not in kind.dtypes:
        yield f"there is no {name} on {made.dtype}."
    required = [place for place, each in enumerate(kind.inputs) if not each.optional]
    if len(operation.inputs) <= max(required):
        yield f"{name} reads {len(operation.inputs)} values, and needs {len(required)}."
    for place, read in enumerate(operation.inputs):
        row = kind.input(place)
        if row is None:
            yield f"{name} reads {len(operation.inputs)} values, more than it knows."
        elif read or not row.optional:
            yield from _wrong_input(graph, row, read, made.dtype, ready)
            if row.constant and read not in stored:
                yield f"{name} computes its {row.name}, which must be a constant."
    values = (graph.values[each] for each in (*operation.outputs, *operation.inputs) if each in graph.values)
    yield from (f"{each.name!r} is {each.dtype}, and its grid is not." for each in values if not _has_its_grid(each))


def _wrong_input(graph: IntegerGraph, row: Input, read: str, dtype: str, ready: set[str]) -> Iterator[str]:
    """What is wrong with one of the values that an operation on numbers of type `dtype` reads."""
    if read not in ready or read not in graph.values:
        yield f"it reads {read!r} as its {row.name}, which nothing made before."
        return
    value = graph.values[read]
    if value.dtype not in (row.dtypes or (dtype,)):
        yield f"its {row.name} is {value.dtype}, and should be {' or '.join(row.dtypes or (dtype,))}."
    rounds = row.rounds and dtype == FLOAT
    if row.name in ("weight", "bias") and (value.dtype == FLOAT) != (dtype == FLOAT) and not rounds:
        yield f"its {row.name} is {value.dtype}, which does not go with {dtype}."
    if row.name == "weight" and value.grid is not None and any(value.grid.zero_point):
        yield "its weight has a zero point."


def _has_its_grid(value: Value) -> bool:
    """Whether a value of 8 or 16 bits has a grid that fits, and a real one none."""
    bits = 0 if value.grid is None else value.grid.bits
    wanted = {"int8": range(2, 9), "int16": (16,), "int32": (0, 32), "int64": (0, 32)}
    return bits in wanted.get(value.dtype, (0,)) and not (bits == 16 and value.grid and any(value.grid.zero_point))
