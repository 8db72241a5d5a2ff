"""Memory: where each value that an integer graph computes lies in one static arena, and when.

What is stored in the file takes none. A reshape's result is its input, read differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from haversack.graph import memory
from haversack.graph.memory import Buffer, Overlap
from haversack.integer import IntegerGraph, Operation, Value

ALIGNMENT = 16
Scratch = Callable[[IntegerGraph, Operation], int]
"""The bytes that an operation's code needs beside its values while it runs."""
Overwrites = Callable[[IntegerGraph, Operation], Iterable[Overlap]]
"""Where an operation's code may write over what it reads, by the names of values."""


@dataclass(frozen=True)
class Streamed:
    """What is known of values that operations at some `places` make and read some rows at a time.

    `buffers` stand for those values that the graph says otherwise of, `overlaps` for what these operations overwrite.
    """

    buffers: Mapping[str, Buffer] = field(default_factory=dict)
    overlaps: tuple[Overlap, ...] = ()
    places: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Arena:
    """The offset of every value that is computed, and of each operation's scratch memory by its place in the graph.

    No arena for this order of operations, with these alignments, can be smaller than `bound_bytes`.
    """

    offsets: Mapping[str, int]
    scratch: Mapping[int, int]
    size_bytes: int
    bound_bytes: int


def arena(
    graph: IntegerGraph,
    *,
    alignment: int = ALIGNMENT,
    scratch: Scratch | None = None,
    overwrites: Overwrites = lambda _, __: (),
    streamed: Streamed | None = None,
) -> Arena:
    """An arena in which nothing that is alive together overlaps and everything starts at a multiple of `alignment`.

    Inputs and outputs lie in it as well. The same graph gives the same arena. What an operation is the last to read
    may be overwritten by it as `overwrites` allows.
    """
    owners, beside = sharing(graph), _scratch(graph, scratch or scratch_bytes)
    buffers, overlaps = _aligned(graph, beside.values(), alignment, overwrites, streamed or Streamed())
    plan = memory.plan(buffers, overlaps=overlaps)
    offsets = {name: plan.offsets[owner] for name, owner in owners.items() if owner in plan.offsets}
    places = {index: plan.offsets[buffer.name] for index, buffer in beside.items()}
    return Arena(offsets, places, plan.peak_bytes, plan.bound_bytes)


def bounds(
    graph: IntegerGraph, *, alignment: int, scratch: Scratch, overwrites: Overwrites, streamed: Streamed | None = None
) -> list[int]:
    """The bytes below which no arena of these can be, at each operation, and when all are done."""
    beside = _scratch(graph, scratch)
    return memory.bounds(*_aligned(graph, beside.values(), alignment, overwrites, streamed or Streamed()))


def _aligned(
    graph: IntegerGraph, beside: Iterable[Buffer], alignment: int, overwrites: Overwrites, streamed: Streamed
) -> tuple[list[Buffer], list[Overlap]]:
    """All buffers, and which may share bytes."""
    # Rounded sizes put every offset on a multiple, as each is a sum of sizes.
    owners = sharing(graph)
    values = [streamed.buffers.get(buffer.name, buffer) for buffer in lifetimes(graph)]
    first, last = {each.name: each.first for each in values}, {each.name: each.last for each in values}
    pairs = [
        (overlap, owners.get(overlap.read, ""), owners[overlap.made])
        for step, operation in enumerate(graph.operations)
        if step not in streamed.places
        for overlap in overwrites(graph, operation)
        if last.get(owners.get(overlap.read, "")) == step == first[owners[overlap.made]]
    ]
    pairs += [(overlap, overlap.read, overlap.made) for overlap in streamed.overlaps]
    return [rounded(buffer, alignment) for buffer in (*values, *beside)], [
        Overlap(read, made, -(-overlap.distance // alignment) * alignment, overlap.exact)
        for overlap, read, made in pairs
        if read != made
    ]


def sharing(graph: IntegerGraph) -> Mapping[str, str]:
    """For every value that is computed or an input, the one whose bytes it has: itself, but for reshapes."""
    owners = {name: name for name in graph.inputs}
    for operation in graph.operations:
        source = owners.get(operation.inputs[0]) if operation.kind == "RESHAPE" else None
        owners.update({name: source or name for name in operation.outputs})
    return owners


def lifetimes(graph: IntegerGraph) -> tuple[Buffer, ...]:
    """When each value with bytes of its own is alive, in places of operations, and how large it is.

    Inputs are alive from the start, outputs to the end. What nothing reads is alive while it is made.
    """
    owners = sharing(graph)
    first: dict[str, int] = dict.fromkeys(graph.inputs, 0)
    last = dict(first)
    for step, operation in enumerate(graph.operations):
        for name in operation.outputs:
            first.setdefault(owners[name], step)
        for name in (*operation.inputs, *operation.outputs):
            if name in owners:
                last[owners[name]] = step
    last.update({owners[name]: len(graph.operations) for name in graph.outputs if name in owners})
    return tuple(Buffer(name, size_bytes(graph.values[name]), first[name], last[name]) for name in first)


def size_bytes(value: Value) -> int:
    """The bytes of a value while it is computed with, where each number has some of its own."""
    return math.prod(value.shape) * np.dtype(value.dtype).itemsize


def scratch_bytes(graph: IntegerGraph, operation: Operation) -> int:
    """What plain loops need: a transposed convolution on integers keeps its sums, which have 32 bits or 64."""
    output = graph.values[operation.outputs[0]]
    if operation.kind != "TRANSPOSE_CONV" or output.grid is None:
        return 0
    return math.prod(output.shape) * (8 if output.dtype == "int16" else 4)


def _scratch(graph: IntegerGraph, wanted: Scratch) -> dict[int, Buffer]:
    """The scratch memory of the operations that need some, under names that no value has."""
    names = (name for count in range(len(graph.values) + len(graph.operations) + 1) if (name := f"scratch{count}"))
    free = (name for name in names if name not in graph.values)
    sizes = {index: wanted(graph, operation) for index, operation in enumerate(graph.operations)}
    return {index: Buffer(next(free), size, index, index) for index, size in sizes.items() if size}


def rounded(buffer: Buffer, alignment: int) -> Buffer:
    """The buffer with as many bytes more as lead up to a multiple."""
    return Buffer(buffer.name, -(-buffer.size_bytes // alignment) * alignment, buffer.first, buffer.last)
