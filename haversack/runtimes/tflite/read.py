"""Reader: the bytes of anybody's .tflite file become an integer graph, or an error that says why they do not.

What they claim is bounded before anything is built from it, and a graph that comes back has passed `check_shapes`.
Weights are not copied. Where a layer computes real numbers with integer weights, a DEQUANTIZE stands before it, but for
a FULLY_CONNECTED that says how it rounds what it reads: the numbers are what the file means; LiteRT rounds what other
such layers read as well, so their results differ in the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from haversack.errors import HaversackError, UntrustedError
from haversack.grid import Grid
from haversack.integer import KINDS, Array, IntegerGraph, Operation, Value
from haversack.integer.passes import unpacked
from haversack.integer.shapes import check_shapes, is_shape
from haversack.runtimes.tflite.flat import FlatBytes, FlatTable, damaged
from haversack.runtimes.tflite.schema import (
    BUILTINS,
    IDENTIFIER,
    LARGEST_FILE_BYTES,
    SCHEMA_VERSION,
    TENSOR_TYPES,
    WORDS,
    Field,
)

_TYPES = {code: name for name, code in TENSOR_TYPES.items()}
_READ = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "int64": "<i8", "int16": "<i2", "int8": "i1", "int4": "u1"}
_BITS = {"int4": 4, "int8": 8, "int16": 16, "int32": 32, "int64": 32}
_KINDS = {builtin.code: kind for kind, builtin in BUILTINS.items()}
_FORMATS = {"Int8": "<b", "Int32": "<i", "Bool": "<?", "Float32": "<f"}
_STEPS = (2.0**-60, 2.0**30)
"""No network's steps are smaller or larger, and arithmetic on steps between these does not overflow."""

_MOST_OPERATORS = 1 << 12
_TIMES_READ = 4
"""How often each byte of a file may belong to some weights: more than once only in files of ill will."""


def read(content: bytes) -> IntegerGraph:
    """The graph in a .tflite file, its names and layout as they are there.

    Raises UntrustedError for what is no such file, is damaged, does not fit together, or holds what the integer graph
    does not know: other operations or number types, several graphs, variables, sparse weights.
    """
    if len(content) > LARGEST_FILE_BYTES:
        raise UntrustedError(f"it has more than {LARGEST_FILE_BYTES:,} bytes.")
    if content[4:8] != IDENTIFIER:
        raise damaged()
    try:
        graph = _ReadFile(FlatBytes(content)).graph()
        check_shapes(graph)
    except UntrustedError:
        raise
    except HaversackError as error:
        raise UntrustedError(f"it cannot be computed: {error.what}", where=error.where) from error
    return graph


class _ReadFile:
    """One file while it is read."""

    def __init__(self, file: FlatBytes) -> None:
        model = file.root()
        _refuse_unless(model.number(0, "<I") == SCHEMA_VERSION, "it is of another version of the format")
        graphs = model.tables(2)
        _refuse_unless(len(graphs) == 1, f"it holds {len(graphs)} graphs")
        self._graph, self._buffers, self._left = graphs[0], model.tables(4), _TIMES_READ * len(file.content)
        self._codes = [_code(table) for table in model.tables(1)]
        self._numbers: dict[tuple[int, str], Array] = {}
        self._grids: dict[tuple[int, int], Grid] = {}
        self.values: dict[str, Value] = {}
        self.names = [self._declare(table, index) for index, table in enumerate(self._graph.tables(0))]

    def graph(self) -> IntegerGraph:
        """All of it."""
        inputs, outputs = (self._named(self._graph.numbers(slot, "<i4")) for slot in (1, 2))
        _refuse_unless(all(inputs) and all(outputs) and inputs and outputs, "it has no inputs or no outputs")
        _refuse_unless(len(set(inputs)) == len(inputs), "an input is there twice")
        _refuse_unless(all(self.values[name].data is None for name in inputs), "an input is a constant")
        for name in inputs:
            shape = self.values[name].shape
            _refuse_unless(
                shape[:1] == (1,), f"its input {name!r} has the shape {shape}, and is not for a batch of one"
            )
        operators = self._graph.tables(3)
        _refuse_unless(len(operators) <= _MOST_OPERATORS, f"it has {len(operators):,} operators")
        operations = tuple(each for operator in operators for each in self._operations(operator))
        orders = (tuple(tuple(range(len(self.values[name].shape))) for name in names) for names in (inputs, outputs))
        return IntegerGraph(self.values, operations, inputs, outputs, *orders)

    def _declare(self, table: FlatTable, index: int) -> str:
        """The name of one more value: the file's, where no other has it."""
        wanted = table.text(3)
        name = wanted if wanted and wanted not in self.values else f"{wanted}:{index}"
        while name in self.values:
            name += ":"
        code = table.number(1, "<b")
        dtype = _TYPES.get(code, "")
        _refuse_unless(dtype in _READ, f"it holds numbers of type {dtype or code}")
        _refuse_unless(not table.number(5, "<?") and table.table(6) is None, "it has variables or sparse weights")
        shape = tuple(table.numbers(0, "<i4"))
        _refuse_unless(is_shape(shape), f"{name!r} has the shape {shape[:9]}")
        data = self._data(table.number(2, "<I"), dtype, shape)
        kept = "int8" if dtype == "int4" else dtype
        self.values[name] = Value(name, shape, kept, self._grid(table.table(4), dtype), data)
        return name

    def _data(self, index: int, dtype: str, shape: tuple[int, ...]) -> Array | None:
        """A constant's numbers; None where the buffer is empty."""
        if index >= len(self._buffers):
            raise damaged()
        buffer = self._buffers[index]
        stored = buffer.bytes_of(0)
        _refuse_unless(buffer.number(1, "<Q") <= 1, "its weights lie outside its tables")
        if not stored.size:
            return None
        count, width = math.prod(shape), np.dtype(_READ[dtype]).itemsize
        wanted = -(-count // 2) if dtype == "int4" else count * width
        _refuse_unless(stored.size == wanted, f"a constant of shape {shape} has {stored.size} bytes")
        key = (index, dtype)
        if key not in self._numbers:
            self._left -= stored.size
            _refuse_unless(self._left >= 0, "its weights overlap")
            numbers = unpacked(stored, count) if dtype == "int4" else stored.view(_READ[dtype])
            finite = dtype not in ("float32", "float16") or bool(np.isfinite(numbers).all())
            _refuse_unless(finite, "it holds numbers that are not finite")
            self._numbers[key] = numbers
        return self._numbers[key].reshape(shape)

    def _grid(self, table: FlatTable | None, dtype: str) -> Grid | None:
        """What integers stand for; real numbers may have smallest and largest ones noted, which say nothing."""
        if table is None or dtype not in _BITS:
            return None
        key = (table.place, _BITS[dtype])
        if key not in self._grids:
            scale = tuple(table.numbers(2, "<f4"))
            if not scale:
                return None
            zero = tuple(table.numbers(3, "<i8")) or (0,) * len(scale)
            _refuse_unless(table.number(4, "<B") == 0, "its integers are not on grids of even steps")
            _refuse_unless(all(_STEPS[0] <= step <= _STEPS[1] for step in scale), "it has steps that no network has")
            self._grids[key] = Grid(key[1], True, scale, zero, table.number(6, "<i") if len(scale) > 1 else None)
        return self._grids[key]

    def _named(self, indices: list[int]) -> tuple[str, ...]:
        """The values of these numbers; what is left out is ""."""
        if not all(-1 <= index < len(self.names) for index in indices):
            raise damaged()
        return tuple(self.names[index] if index >= 0 else "" for index in indices)

    def _operations(self, operator: FlatTable) -> Iterator[Operation]:
        """An operation, behind what it needs to be one of ours."""
        index = operator.number(0, "<I")
        if index >= len(self._codes):
            raise damaged()
        kind = _KINDS.get(self._codes[index])
        if kind is None:
            raise UntrustedError(f"it has an operator of number {self._codes[index]}, which Haversack does not know.")
        inputs, outputs = (self._named(operator.numbers(slot, "<i4")) for slot in (1, 2))
        _refuse_unless(all(outputs) and outputs, f"{kind} makes nothing")
        result = self.values[outputs[0]]
        few = result.grid is not None and result.grid.bits <= _BITS["int4"]
        _refuse_unless(not few or kind == "GATHER", f"it computes {outputs[0]!r} in 4 bits")
        if kind == "RESHAPE" and not any(inputs[1:]):
            inputs = (*inputs[:1], self._shape(result))
        operation = Operation(kind, inputs, outputs, _options(kind, operator, result.dtype), outputs[0])
        weight = "weight" if any(each.name == "weight" for each in KINDS[kind].inputs) else ""
        name = operation.input(weight) if weight else ""
        rounds = operation.options.get("asymmetric_quantize_inputs", False)
        if name and result.dtype == "float32" and self.values[name].dtype == "int8" and not rounds:
            real = self._new(f"{name}:real")
            self.values[real] = Value(real, self.values[name].shape, "float32")
            yield Operation("DEQUANTIZE", (name,), (real,), {}, outputs[0])
            operation = operation.renamed({name: real})
        yield operation

    def _shape(self, result: Value) -> str:
        """The constant that a RESHAPE reads where the file says the shape elsewhere."""
        name = self._new(f"{result.name}:shape")
        data = np.array(result.shape, np.int32)
        self.values[name] = Value(name, data.shape, "int32", None, data)
        return name

    def _new(self, name: str) -> str:
        while name in self.values:
            name += ":"
        return name


def _code(table: FlatTable) -> int:
    """An operator's number: it was one byte once, and the larger of both fields counts."""
    return int(max(table.number(0, "<b"), table.number(3, "<i")))


def _options(kind: str, operator: FlatTable, dtype: str) -> dict[str, Any]:
    """The operation's options under our names."""
    builtin, table = BUILTINS[kind], operator.table(4)
    if table is not None and builtin.fields:
        _refuse_unless(operator.number(3, "<B") == builtin.options, f"{kind} has the options of another operator")
    stored = {field.option: _option(kind, field, table) for field in builtin.fields}
    for field in builtin.fields:
        if field.fixed is not None:
            counts = field.option != "pot_scale_int16" or dtype == "int16"
            _refuse_unless(stored.pop(field.option) == field.fixed or not counts, f"{kind} sets {field.option}")
    return stored


def _option(kind: str, field: Field, table: FlatTable | None) -> Any:  # noqa: ANN401 - a number, a word or a pair
    kinds = {option.name: option.type for option in KINDS[kind].options}
    numbers = tuple(
        field.default if table is None else table.number(slot, _FORMATS[field.width], field.default)
        for slot in field.slots
    )
    words = kinds.get(field.option)
    if isinstance(words, tuple):
        word = next((word for word in words if WORDS[word] == numbers[0]), None)
        _refuse_unless(word is not None, f"{kind} has a {field.option} of number {numbers[0]}")
        return word
    value = numbers[0]
    if field.width in ("Bool", "Float32"):
        return bool(value) if field.width == "Bool" else float(value)
    return numbers if len(numbers) > 1 else value


def _refuse_unless(holds: object, otherwise: str) -> None:
    if not holds:
        raise UntrustedError(f"{otherwise}.")
