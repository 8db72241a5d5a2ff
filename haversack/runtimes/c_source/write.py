"""Writer: an integer graph becomes model.h and model.c: C99 without a heap, for any compiler and core.

Memory is one static arena, planned here: what is made may lie over what it is made of, where a kernel allows that (Cao
et al. 2023, "vMCU: Coordinated Memory Management and Kernel Optimization for DNN Inference on MCUs"). Only the kernels
that the network uses are in the file. Where that is more than there may be, layers are computed in strips of some rows
(Lin et al. 2021, "MCUNetV2: Memory-Efficient Patch-based Inference for Tiny Deep Learning").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from haversack.errors import ExportError
from haversack.integer import IntegerGraph, Operation, Value
from haversack.integer.passes import with_integer_ports
from haversack.runtimes.c_source.constants import Constants, Entry, brief
from haversack.runtimes.c_source.layers.call import Call
from haversack.runtimes.c_source.strips.choose import Layouts, runs_within
from haversack.runtimes.c_source.strips.loops import StripLoops
from haversack.runtimes.c_source.strips.memory import WORD
from haversack.runtimes.c_source.strips.schedule import StripOperation, StripRun
from haversack.runtimes.c_source.texts import text_of, text_of_all

_WITH_SCRATCH = frozenset({"convolve", "convolve_sparse", "convolve_depthwise", "connect"})
_FLAGS = (
    *("LARGE_SUMS", "LEFT_SHIFTS", "NO_SHIFTS", "LIMITS"),
    *("3_BY_3", "OTHER_WINDOWS"),
    *("CODES", "BITS_1", "BITS_2", "BITS_3", "BITS_4", "SPARSE", "16_BITS"),
)
_QUANTIZED = "quantize the whole network, such as by quantize_static."
_C_TYPES = {"int8": "int8_t", "int16": "int16_t", "int32": "int32_t"}


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    """In C."""
    value: Value
    offset: int

    @property
    def kind(self) -> str:
        """Its type in C."""
        return _C_TYPES[self.value.dtype]

    @property
    def macro(self) -> str:
        """How macros that tell about it begin."""
        return f"HAVERSACK_MODEL_{self.name.upper()}"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one sample."""
        return self.value.shape[1:]

    @property
    def size_bytes(self) -> int:
        """All of it."""
        return math.prod(self.value.shape) * np.dtype(self.value.dtype).itemsize

    def described(self) -> Iterator[str]:
        """What a program needs to know of it."""
        yield f"/* {_in_a_comment(self.value.name)}: {_sizes(self.value)} */"
        yield f"#define {self.macro}_SIZE {math.prod(self.value.shape)}"
        if self.value.grid is not None:
            yield f"#define {self.macro}_SCALE {self.value.grid.scale[0]!r}F"
            yield f"#define {self.macro}_ZERO_POINT ({self.value.grid.zero_point[0]})"

    def copied(self, to: str, source: str) -> Iterator[str]:
        """Copies it, unless it is there already."""
        yield f"    if ((const void *)({to}) != (const void *)({source})) {{"
        yield f"        (void)memcpy({to}, {source}, {self.size_bytes});"
        yield "    }"

    @property
    def place(self) -> str:
        """Where the network has it, in C."""
        return f"memory + {self.offset}"

    @property
    def accessor(self) -> str:
        """The function that tells where the network has it."""
        return f"{self.kind} *haversack_model_{self.name}(void)"


@dataclass(frozen=True)
class CModel:
    """Both files, and where the network has its inputs and outputs."""

    files: Mapping[str, bytes]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_bytes: int
    constant_bytes: int
    layers_in_strips: int = 0
    """How many layers are computed some rows at a time."""

    @property
    def ports(self) -> tuple[Port, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)

    def around(self) -> Mapping[str, bytes]:
        """What goes with both files: a program for an operating system that runs what it reads, and how to build it.

        The program is an example, and how the C is proved on this host.
        """
        text = _text("main.c").format(
            buffers="\n".join(f"static {port.kind} {port.name}[{port.macro}_SIZE];" for port in self.ports),
            reads=" && ".join(f"(fread({port.name}, sizeof {port.name}, 1, stdin) == 1)" for port in self.inputs),
            arguments=", ".join(port.name for port in self.ports),
            writes=" || ".join(f"(fwrite({port.name}, sizeof {port.name}, 1, stdout) != 1)" for port in self.outputs),
        )
        return {"main.c": text.encode(), "CMakeLists.txt": _text("CMakeLists.txt").encode()}


def write(graph: IntegerGraph, ram_bytes: int | None = None) -> CModel:
    """model.h and model.c, which compute what the graph computes; equal graphs give equal files.

    Where the arena were larger than `ram_bytes`, layers are computed in strips: those of all that are enough that cost
    the least, or, where none are, those with the smallest arena. Raises ExportError, naming the layer, for what there
    is no kernel for.
    """
    return _Writer(with_integer_ports(graph), ram_bytes).written()


class _Writer:
    """One network while it is written."""

    def __init__(self, graph: IntegerGraph, ram_bytes: int | None) -> None:
        self._graph, self._constants = graph, Constants()
        self._constants.reserve(f"{text_of_all()} strip")
        self._layouts = Layouts(graph, self._constants)
        for value in (graph.values[name] for name in (*graph.inputs, *graph.outputs)):
            if value.data is not None or value.dtype not in _C_TYPES:
                said = "a constant" if value.data is not None else f"of {value.dtype}"
                raise ExportError(f"C has no input or output that is {said}.", where=value.name, mend=_QUANTIZED)
        self._runs = () if ram_bytes is None else runs_within(self._layouts, ram_bytes)
        self._calls, self._arena = self._layouts.calls(self._runs), self._layouts.arena(self._runs)
        self._inputs, self._outputs = (
            [
                Port(kind if len(names) == 1 else f"{kind}_{place}", graph.values[name], self._arena.offsets[name])
                for place, name in enumerate(names)
            ]
            for kind, names in (("input", graph.inputs), ("output", graph.outputs))
        )

    def written(self) -> CModel:
        """Both files, and where inputs and outputs are."""
        texts = {"model.h": self._header().encode(), "model.c": self._source().encode()}
        ports = tuple(self._inputs), tuple(self._outputs)
        in_strips = sum(len(run.operations) for run in self._runs)
        return CModel(texts, *ports, self._arena_bytes, self._constants.flash_bytes, in_strips)

    @property
    def _all_calls(self) -> list[Call]:
        return [call for calls in self._calls for call in calls]

    @property
    def _arena_bytes(self) -> int:
        spare = max((call.spare_words for call in self._all_calls), default=0)
        return max(self._arena.size_bytes + spare * WORD, WORD)

    @property
    def _signature(self) -> str:
        inputs = [f"const {port.kind} *{port.name}" for port in self._inputs]
        outputs = [f"{port.kind} *{port.name}" for port in self._outputs]
        return f"void haversack_model_run({', '.join([*inputs, *outputs])})"

    def _header(self) -> str:
        ports = [*self._inputs, *self._outputs]
        return _text("model.h").format(
            sizes="\n".join(line for port in ports for line in port.described()),
            signature=self._signature,
            accessors="\n".join(f"{port.accessor};" for port in ports),
            arena=self._arena_bytes,
        )

    def _source(self) -> str:
        body = "\n".join(self._body())  # constants are named on the way
        used = {call.kernel for call in self._all_calls}
        flags = {flag for call in self._all_calls for flag in (*call.flags, *_limited(call.entries))}
        used |= {"keep"} if "    keep(" in body else set()
        return _text("model.c").format(
            switches="\n".join(f"#define HAVERSACK_MODEL_{flag} {int(flag in flags)}" for flag in _FLAGS),
            kernels=text_of(used),
            constants="\n\n".join(self._constants.texts),
            words=self._arena_bytes // WORD,
            signature=self._signature,
            body=body,
            accessors="\n\n".join(
                f"{port.accessor}\n{{\n    return ({port.kind} *)(void *)((int8_t *)arena + {port.offset});\n}}"
                for port in (*self._inputs, *self._outputs)
            ),
        )

    def _body(self) -> Iterator[str]:
        for port in self._inputs:
            yield from port.copied(port.place, port.name)
        runs = {run.first: run for run in self._runs}
        inside = {each.place for run in self._runs for each in run.operations}
        for place, operation in enumerate(self._graph.operations):
            if place in runs:
                yield from self._in_strips(runs[place])
            elif place not in inside and (made := self._calls[place]):
                yield self._told(place)
                for call in made:
                    computed = (name for name in (*call.reads, call.makes) if name in self._arena.offsets)
                    places = (f"memory + {self._arena.offsets[name]}" for name in computed)
                    yield f"    {self._begun(call, operation, place).format(*places)}"
                yield f"    HAVERSACK_MODEL_AFTER({place}, {self._place(made[-1].makes)});"
        for port in self._outputs:
            yield from port.copied(port.name, port.place)

    def _in_strips(self, run: StripRun) -> Iterator[str]:
        """The layers of a run, some rows of each at a time."""
        yield f"    /* In {run.count} strips, in which rows that are still read are kept: */"
        yield from (self._told(each.place) for each in run.operations if self._calls[each.place])

        def begun(call: Call, each: StripOperation) -> str:
            return self._begun(call, each.operation, each.place)

        yield from StripLoops(run, self._layouts.of_strip, self._arena.offsets, begun).written()
        for each in run.operations:
            if each.line.is_whole:
                yield f"    HAVERSACK_MODEL_AFTER({each.place}, {self._place(each.line.value.name)});"

    def _told(self, place: int) -> str:
        """A comment: what a layer is called, and what it makes of what."""
        made, operation = self._calls[place], self._graph.operations[place]
        reads, makes = (self._graph.values[name] for name in (_read(made), made[-1].makes))
        sizes = f"{_sizes(reads)} -> {_sizes(makes)}"
        return f"    /* {_in_a_comment(brief(operation.path))}: {operation.kind}, {sizes} */"

    def _begun(self, call: Call, operation: Operation, place: int) -> str:
        """A call, with {} for the place of each value that is computed."""
        record = self._constants.record(call.record, brief(operation.path) or call.kernel, call.entries)
        has_scratch, scratch = call.kernel.removesuffix("_16") in _WITH_SCRATCH, self._arena.scratch.get(place, 0)
        arguments = [f"&{record.text}", *map(self._pointer, (*call.reads, call.makes))]
        arguments += [f"&arena[{scratch // WORD}]"] if has_scratch else []
        return f"{call.kernel}({', '.join(arguments)});"

    def _pointer(self, name: str) -> str:
        """A constant, or with {} for its place a value that is computed, in C."""
        value = self._graph.values[name]
        if value.data is not None:
            return self._constants.numbers(brief(name), value.data).text
        return "{}" if value.dtype == "int8" else f"({_C_TYPES[value.dtype]} *)(void *)({{}})"

    def _place(self, name: str) -> str:
        """Where a value that is computed lies, in C."""
        return self._pointer(name).format(f"memory + {self._arena.offsets[name]}")


def _read(made: Sequence[Call]) -> str:
    """The first value that a layer reads."""
    return next(name for call in made for name in call.reads)


def _limited(entries: Mapping[str, Entry]) -> Iterator[str]:
    """The flag of results that are kept between other limits than those of their type."""
    for name, entry in entries.items():
        if isinstance(entry, Mapping):
            yield from _limited(entry)
        elif name in ("low", "high") and entry not in (-128, 127, -32768, 32767):
            yield "LIMITS"


def _text(name: str) -> str:
    return (files(__package__) / "templates" / name).read_text("utf-8")


def _sizes(value: Value) -> str:
    return "x".join(map(str, value.shape[1:] or value.shape)) or "1"


def _in_a_comment(text: str) -> str:
    return text.replace("*/", "*").replace("/*", "*").encode("ascii", "replace").decode()
