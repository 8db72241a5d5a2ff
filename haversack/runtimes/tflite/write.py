"""Writer: an integer graph becomes the bytes of a .tflite file, without TensorFlow.

What is equal (weights, steps, shapes, whole tables) stands once. Files for LiteRT hold what its tools want: a name for
each tensor, a signature, the oldest runtime that loads them. Bytes are dear on a microcontroller, whose files name only
inputs and outputs, and hold nothing that the runtime does not read. A flatbuffer grows from its end to its beginning,
and the library copies it whole when it is finished, so large weights stand behind all tables: they are only looked at
until they are streamed into the file, one after the other.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, cast

import flatbuffers
import numpy as np

from haversack.errors import ExportError
from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value
from haversack.integer.passes import (
    packed,
    stored_in_4_bits,
    tell_of_halves,
    tensor_names,
    with_biases,
    with_float_ports,
    with_halves,
    with_integer_ports,
    with_pools,
)
from haversack.runtimes.tflite.schema import (
    BUFFER_ALIGNMENT,
    BUILTINS,
    IDENTIFIER,
    LARGEST_FILE_BYTES,
    SCHEMA_VERSION,
    TENSOR_TYPES,
    WORDS,
    Builtin,
    Field,
    Typed,
    check_micro,
    oldest_release,
    version,
)

Array = np.ndarray[Any, Any]
Slot = tuple[int, str, Any, Any]
_EXPECTED_BYTES = _LARGE_BYTES = 1 << 16
_LENGTH = np.dtype("<u4")


class Flatbuffer:
    """Builds a flatbuffer from its leaves up; what equals something written before is that, at no further bytes.

    Every method returns an offset, which other tables refer to by a slot of the kind "UOffsetTRelative".
    """

    def __init__(self) -> None:
        self._builder = flatbuffers.Builder(_EXPECTED_BYTES)
        self._written: dict[Hashable, int] = {}
        self._behind: list[tuple[int, Array]] = []
        self._end = 0

    def table(self, *slots: Slot) -> int:
        """A table of (slot number, kind of number, value, the schema's default); defaults take no bytes."""
        if slots in self._written:
            return self._written[slots]
        builder = self._builder
        builder.StartObject(max((slot for slot, *_ in slots), default=-1) + 1)
        for slot, kind, value, default in slots:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, default)
        return self._written.setdefault(slots, builder.EndObject())

    def numbers(self, values: Sequence[float] | Array, dtype: str, *, alignment: int = 1) -> int:
        """A vector of numbers, little-endian."""
        array = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder("<")).reshape(-1)
        key = (array.tobytes(), dtype, alignment)
        if key in self._written:
            return self._written[key]
        self._builder.Prep(alignment, array.nbytes)
        return self._written.setdefault(key, self._builder.CreateNumpyVector(array))

    def buffer(self, data: Array) -> int:
        """A vector of the array's bytes that starts where runtimes want to find weights.

        The array must stay as it is until the file is finished.
        """
        if data.nbytes < _LARGE_BYTES:
            # Among the tables, which fill what alignment leaves empty.
            return self.numbers(data.reshape(-1).view(np.uint8), "uint8", alignment=BUFFER_ALIGNMENT)
        key = (hashlib.sha256(np.ascontiguousarray(data).data).digest(), data.nbytes)
        if key in self._written:
            return self._written[key]
        start = _aligned(self._end + _LENGTH.itemsize)
        self._behind.append((start, data))
        self._end = start + data.nbytes
        # Tables are as far apart as their offsets say, which count from the end of the last table: what is behind that
        # end has a negative one.
        return self._written.setdefault(key, _LENGTH.itemsize - start)

    def offsets(self, offsets: Sequence[int]) -> int:
        """A vector of tables."""
        builder = self._builder
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def text(self, text: str) -> int:
        """A string."""
        return int(self._builder.CreateSharedString(text))

    def finish(self, root: int) -> bytes:
        """The file."""
        self._builder.minalign = BUFFER_ALIGNMENT
        self._builder.Finish(root, IDENTIFIER)
        stream = io.BytesIO()
        before = stream.write(self._builder.Output())
        for start, data in self._behind:
            stream.write(bytes(before + start - _LENGTH.itemsize - stream.tell()))
            stream.write(_LENGTH.type(data.nbytes).tobytes())
            stream.write(np.ascontiguousarray(data).data)
        return stream.getvalue()


def _aligned(place: int) -> int:
    return -(-place // BUFFER_ALIGNMENT) * BUFFER_ALIGNMENT


def builtin_of(operation: Operation) -> Builtin:
    """The operator of the operation's kind. Raises ExportError, naming the layer, when there is none."""
    builtin = BUILTINS.get(operation.kind)
    if builtin is None:
        raise ExportError(
            f"the .tflite writer has no operator {operation.kind}.",
            where=operation.path,
            mend="leave this part of the network out, or pack for a device that runs onnx.",
        )
    return builtin


def option_slots(operation: Operation) -> tuple[Slot, ...]:
    """The slots of the operation's options. Raises ExportError for an option that is unknown or missing."""
    fields, settings = builtin_of(operation).fields, operation.settings()
    return tuple(slot for field in fields for slot in _slots(field, settings.get(field.option, field.fixed)))


def _slots(field: Field, value: Any) -> Iterator[Slot]:  # noqa: ANN401 - an option's value
    values = value if isinstance(value, tuple) else (value,) * len(field.slots)
    for slot, number in zip(field.slots, values, strict=True):
        yield slot, field.width, WORDS[number] if isinstance(number, str) else number, field.default


_BYTES_BESIDE_WEIGHTS = 1 << 16
_RELEASE_BYTES = 16
_SIGNATURE = "serving_default"
_LAST_OLD_CODE = 127
"""Operator codes were one byte once; readers take the larger of the old and the new field."""


def write(graph: IntegerGraph, *, float_io: bool = False, micro: bool = False) -> bytes:
    """A .tflite file that computes what the graph computes; equal graphs give equal bytes.

    Inputs and outputs are integers where the graph has integers behind them, or float32 with `float_io`: then QUANTIZE
    and DEQUANTIZE lie between. Weights of up to 4 bits take 4 bits where kernels can read them; with `micro`, where
    those of LiteRT for Microcontrollers can, too.
    Raises ExportError, naming the layer, for an operation or number type that TFLite lacks, and beyond 2 GB.
    """
    if micro:
        check_micro(graph)
        tell_of_halves(graph)
    graph = with_biases(with_pools(with_float_ports(graph) if float_io else with_integer_ports(graph)))
    graph = graph if micro else with_halves(graph)
    return _File(graph, stored_in_4_bits(graph, micro=micro), described=not micro).content()


class _File:
    """One file in the making: a flatbuffer is built from its leaves up."""

    def __init__(self, graph: IntegerGraph, int4: frozenset[str], *, described: bool) -> None:
        self._graph, self._int4, self._described = graph, int4, described
        self._builtins = {operation.kind: builtin_of(operation) for operation in graph.operations}
        names = (*graph.inputs, *(name for each in graph.operations for name in (*each.inputs, *each.outputs)))
        self._order = {name: index for index, name in enumerate(dict.fromkeys((*names, *graph.outputs))) if name}
        self._names = tensor_names(graph) if described else {name: name for name in (*graph.inputs, *graph.outputs)}
        self._check_size()
        self._tables = Flatbuffer()
        self._buffers: dict[int, int] = {self._tables.table(): 0}
        self._codes: dict[int, int] = {}
        self._versions: set[tuple[str, int]] = set()

    def content(self) -> bytes:
        """The file, all of it."""
        tables, graph = self._tables, self._graph
        tensors = tables.offsets([self._tensor(graph.values[name]) for name in self._order])
        operators = tables.offsets([self._operator(operation) for operation in graph.operations])
        subgraph = tables.table(
            _reference(0, tensors),
            _reference(1, self._indices(graph.inputs)),
            _reference(2, self._indices(graph.outputs)),
            _reference(3, operators),
        )
        described = self._description() if self._described else ()
        return tables.finish(
            tables.table(
                (0, "Uint32", SCHEMA_VERSION, 0),
                _reference(1, tables.offsets(list(self._codes))),
                _reference(2, tables.offsets([subgraph])),
                _reference(4, tables.offsets(list(self._buffers))),
                *described,
            )
        )

    def _description(self) -> tuple[Slot, ...]:
        """Who wrote the file, the oldest runtime that loads it, and its one signature."""
        tables, graph = self._tables, self._graph
        slots = [_reference(3, tables.text("Written by Haversack."))]
        if self._versions:
            release = np.frombuffer(oldest_release(self._versions).encode().ljust(_RELEASE_BYTES, b"\0"), np.uint8)
            name = tables.text("min_runtime_version")
            place = self._placed(tables.table(_reference(0, tables.buffer(release))))
            slots.append(_reference(6, tables.offsets([tables.table(_reference(0, name), (1, "Uint32", place, 0))])))
        inputs, outputs = (tables.offsets([self._port(name) for name in end]) for end in (graph.inputs, graph.outputs))
        signature = (_reference(0, inputs), _reference(1, outputs), _reference(2, tables.text(_SIGNATURE)))
        return (*slots, _reference(7, tables.offsets([tables.table(*signature)])))

    def _port(self, name: str) -> int:
        """An input or output of the signature."""
        return self._tables.table(_reference(0, self._tables.text(name)), (1, "Uint32", self._order[name], 0))

    def _check_size(self) -> None:
        """Raises ExportError when no reader would take the file."""
        size = _BYTES_BESIDE_WEIGHTS + sum(value.data.nbytes for value in self._used() if value.data is not None)
        if size > LARGEST_FILE_BYTES:
            raise ExportError(
                f"the file would have {size / 1e9:.1f} GB, and a .tflite file holds at most 2 GB.",
                mend="store weights in fewer bits, or pack for a device that runs onnx.",
            )

    def _used(self) -> Iterator[Value]:
        return (self._graph.values[name] for name in self._order)

    def _tensor(self, value: Value) -> int:
        tables = self._tables
        slots: list[Slot] = [
            _reference(0, tables.numbers(value.shape, "int32")),
            (1, "Int8", self._type(value), 0),
            (2, "Uint32", self._buffer(value), 0),
            _reference(3, tables.text(self._names.get(value.name, ""))),
            *([_reference(4, self._quantization(value))] if value.grid else []),
        ]
        return tables.table(*slots)

    def _type(self, value: Value) -> int:
        code = TENSOR_TYPES.get("int4" if value.name in self._int4 else value.dtype)
        if code is None:
            raise ExportError(f"TFLite has no numbers of type {value.dtype}.", where=value.name)
        return code

    def _buffer(self, value: Value) -> int:
        """The place among the file's buffers of a constant's bytes; 0, the empty one, is what is computed."""
        if value.data is None:
            return 0
        data = packed(value.data) if value.name in self._int4 else np.asarray(value.data, value.dtype)
        return self._placed(self._tables.table(_reference(0, self._tables.buffer(data))))

    def _placed(self, buffer: int) -> int:
        return self._buffers.setdefault(buffer, len(self._buffers))

    def _quantization(self, value: Value) -> int:
        grid, tables = cast("Grid", value.grid), self._tables
        return tables.table(
            _reference(2, tables.numbers(grid.scale, "float32")),
            _reference(3, tables.numbers(grid.zero_point, "int64")),
            (6, "Int32", grid.axis or 0, 0),
        )

    def _operator(self, operation: Operation) -> int:
        builtin, slots = self._builtins[operation.kind], option_slots(operation)
        options = self._tables.table(*slots) if slots else 0
        return self._tables.table(
            (0, "Uint32", self._code(operation, builtin), 0),
            _reference(1, self._indices(operation.inputs)),
            _reference(2, self._indices(operation.outputs)),
            (3, "Uint8", builtin.options if slots else 0, 0),
            _reference(4, options),
        )

    def _code(self, operation: Operation, builtin: Builtin) -> int:
        """The place of the operation's kind and version among the file's operator codes."""
        values = self._graph.values
        inputs, outputs = ([values[name] for name in names if name] for names in (operation.inputs, operation.outputs))
        wanted = version(Typed(operation, inputs, outputs, any(name in self._int4 for name in operation.inputs)))
        self._versions.add((operation.kind, wanted))
        code = self._tables.table(
            (0, "Int8", min(builtin.code, _LAST_OLD_CODE), 0), (2, "Int32", wanted, 1), (3, "Int32", builtin.code, 0)
        )
        return self._codes.setdefault(code, len(self._codes))

    def _indices(self, names: tuple[str, ...]) -> int:
        """The tensors of these names; what is left out at the end is not mentioned, in between it is -1."""
        indices = [self._order.get(name, -1) for name in names]
        while indices and indices[-1] < 0:
            indices.pop()
        return self._tables.numbers(indices, "int32")


def _reference(slot: int, offset: int) -> Slot:
    return slot, "UOffsetTRelative", offset, 0
