"""Storage: in what form each layer's weights are kept: as bytes, as numbers of the few values there are, without zeros.

A codebook (Han et al. 2016, "Deep Compression") also takes its values, what is left of a row without zeros how many of
them lie between the others, and each form code that reads it, which is in the file once for all layers of a kernel:
whether forms pay is counted over the whole network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from haversack.integer import Array, IntegerGraph, Operation

BYTE = 8
_EIGHT = 8
"""Codes that are read at once: in as many bytes as each has bits."""
_POINTER_BYTES = 4
_BLOCK = 4
"""Channels of a fully connected layer that lie between each other."""
_MOST_ZEROS = 15
"""Between two weights; where there are more, one of them is stored."""
_PRICE = 1.3
"""How many times the instructions a layer may take without its zeros."""
_INSTRUCTIONS = {"convolve": ((4, 4), (9.5, 8)), "connect": ((1.8, 0), (7.5, 0))}
"""Those of a weight, and of a depth that is read: with zeros, and without them for each weight that is left (GCC,
Cortex-M4; of a convolution for four pixels)."""


@dataclass(frozen=True, order=True)
class Form:
    """Weights of so many bits: bytes, or places among the values there are; `sparse`: only those that are not zero."""

    bits: int = BYTE
    sparse: bool = False

    @property
    def pairs(self) -> int:
        """Words of the table of what two codes stand for, which a kernel makes before it begins."""
        return 0 if self.sparse or self.bits == BYTE else 1 << 2 * self.bits

    @property
    def flags(self) -> frozenset[str]:
        """What the kernels' text is switched on for."""
        if self.sparse:
            return frozenset({"SPARSE"})
        return frozenset() if self.bits == BYTE else frozenset({"CODES", f"BITS_{self.bits}"})


BYTES = Form()
CODES = tuple(Form(bits) for bits in (1, 2, 3, 4))
SPARSE = Form(BYTE, sparse=True), Form(4, sparse=True)
CODE_BYTES = {
    "convolve": {CODES: (480, 250), SPARSE: (1380, 0)},
    "connect": {CODES: (560, 300), SPARSE: (360, 0)},
    "convolve_depthwise": {CODES: (60, 0)},
}
"""What each kernel of a network takes more where there are such forms: for one, and each other (GCC, Cortex-M4)."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A layer's weights in the order in which its kernel reads them, a channel in each row."""

    kernel: str
    numbers: Array
    groups: int = 1

    @classmethod
    def of(cls, graph: IntegerGraph, operation: Operation) -> Rows:
        """Those of a layer that has weights. What dilation leaves out between a depthwise window's columns is zero."""
        numbers = np.asarray(graph.values[operation.input("weight")].data, np.int64)
        if operation.kind == "DEPTHWISE_CONV_2D":
            _, height, width, channels = numbers.shape
            dilation = operation.option("dilation")[1]
            spread = np.zeros((channels, height, (width - 1) * dilation + 1), np.int64)
            spread[:, :, ::dilation] = np.moveaxis(numbers[0], 2, 0)
            return cls("convolve_depthwise", spread.reshape(channels, -1))
        rows, read = numbers.reshape(len(numbers), -1), graph.values[operation.input("input")].shape
        if operation.kind == "TRANSPOSE_CONV":
            return cls("convolve_transposed", rows)
        single = operation.kind == "FULLY_CONNECTED" and math.prod(read) == rows.shape[1]
        groups = read[-1] // numbers.shape[-1] if operation.kind == "CONV_2D" else 1
        return cls("connect" if single else "convolve", rows, groups)

    def forms(self) -> Iterator[Form]:
        """Those that the weights can be kept in, without a price in time that is out of proportion."""
        yield BYTES
        yield from (form for form in CODES if len(np.unique(self._eights)) <= 1 << form.bits)
        if self.groups == 1 and self.kernel in _INSTRUCTIONS and self._skips_enough():
            yield from (form for form in SPARSE if form.bits == BYTE or len(np.unique(self.numbers)) <= 1 << form.bits)

    def arrays(self, form: Form) -> Mapping[str, Array]:
        """What is stored of the weights in such a form, by the names of a record's members."""
        if form == BYTES:
            numbers = self.numbers.reshape(1, -1) if self._is_one else self.numbers
            return {"weights": _in_words(self._in_turns(_filled(numbers, 4).reshape(len(numbers), -1, 4)))}
        stored = self.numbers if form.sparse else self._eights
        values = np.unique(np.append(stored, 0) if form.sparse else stored)
        listed = {} if form.bits == BYTE else {"values": np.resize(values, 1 << form.bits).astype(np.int8)}
        if form.sparse:
            rows = [_without_zeros(row, None if form.bits == BYTE else values) for row in stored]
            lengths = np.array([len(row) for row in rows], np.uint16)
            return {"weights": np.concatenate(rows).reshape(-1), "lengths": lengths, **listed}
        codes = np.searchsorted(values, stored)
        if self._is_one:
            return {"weights": _in_bits(codes, form.bits), **listed}
        eights = self._in_turns(_in_eights(codes, form.bits))
        return {"weights": np.frombuffer(eights.tobytes(), _EIGHT_TYPES[form.bits]), **listed}

    def _skips_enough(self) -> bool:
        """Whether a kernel that skips zeros takes not much longer than one that multiplies by them."""
        (each, depth), (each_left, depth_sparse) = _INSTRUCTIONS[self.kernel]
        channels, left = len(self.numbers), np.count_nonzero(self.numbers) / self.numbers.shape[1]
        return bool(left and left * each_left + depth_sparse <= _PRICE * (channels * each + depth))

    @property
    def _is_one(self) -> bool:
        """Whether a channel's weights begin where those of the one before end."""
        return self.kernel in ("convolve_depthwise", "convolve_transposed", "convolve_long_16")

    @property
    def _eights(self) -> Array:
        """Rows of whole eights. A convolution multiplies what is behind their ends by zero: any value will do."""
        if self._is_one:
            return self.numbers
        return _filled(self.numbers, _EIGHT, "edge" if self.kernel == "convolve" else "constant")

    def _in_turns(self, parts: Array) -> Array:
        """Parts of rows: those of four channels of a fully connected layer in turns, the last ones' in rows."""
        whole = len(parts) // _BLOCK * _BLOCK if self.kernel == "connect" else 0
        blocks = parts[:whole].reshape(-1, _BLOCK, *parts.shape[1:]).swapaxes(1, 2)
        return np.concatenate([blocks.reshape(-1), parts[whole:].reshape(-1)])


@dataclass(frozen=True, eq=False)
class Stored:
    """A layer's weights in the form in which they are kept."""

    rows: Rows
    form: Form
    arrays: Mapping[str, Array]
    """By the names of a record's members."""

    @classmethod
    def as_bytes(cls, rows: Rows) -> Stored:
        """A byte for each weight."""
        return cls(rows, BYTES, rows.arrays(BYTES))

    @property
    def size_bytes(self) -> int:
        """What they take in flash."""
        return sum(array.nbytes for array in self.arrays.values()) + _POINTER_BYTES * (len(self.arrays) - 1)


def stored(graph: IntegerGraph) -> Mapping[str, Stored]:
    """The weights of all layers, by what these make, in the forms with which weights and code take the fewest bytes."""
    layers = {
        operation.outputs[0]: Rows.of(graph, operation)
        for operation in graph.operations
        if operation.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and _has_integers(graph, operation)
    }
    ways = {
        name: {form: Stored(rows, form, rows.arrays(form)) for form in rows.forms()} for name, rows in layers.items()
    }
    sizes = {name: {form: way.size_bytes for form, way in each.items()} for name, each in ways.items()}
    kernels = {rows.kernel for rows in layers.values()}

    def flash(some: Sequence[Form]) -> int:
        code = (each for kernel in kernels for each in CODE_BYTES[kernel].items())
        counts = ((sum(form in kind for form in some), *cost) for kind, cost in code)
        more = sum(first + other * (count - 1) for count, first, other in counts if count)
        return more + sum(each[_smallest(each, some)] for each in sizes.values())

    useful = sorted({form for each in sizes.values() for form in each} - {BYTES})
    choices = (some for count in range(len(useful) + 1) for some in itertools.combinations(useful, count))
    allowed = min(choices, key=flash)
    return {name: ways[name][_smallest(each, allowed)] for name, each in sizes.items()}


def _has_integers(graph: IntegerGraph, operation: Operation) -> bool:
    weight = graph.values[operation.input("weight")]
    return weight.data is not None and weight.dtype == "int8"


def _smallest(sizes: Mapping[Form, int], allowed: Sequence[Form]) -> Form:
    return min((form for form in (BYTES, *allowed) if form in sizes), key=lambda form: sizes[form])


_EIGHT_TYPES = {1: "<u1", 2: "<u2", 3: "<u1", 4: "<u4"}
"""What the kernels read eight codes as, or a part of them."""


def _in_eights(codes: Array, bits: int) -> Array:
    """Rows of codes as bytes: (rows, eights, bytes), of depths 0, 2, 1, 3, 4, 6, 5, 7, the first lowest."""
    eights = codes.reshape(len(codes), -1, _EIGHT)[:, :, [0, 2, 1, 3, 4, 6, 5, 7]]
    together = (eights << bits * np.arange(_EIGHT)).sum(axis=2).astype("<u4")
    return np.ascontiguousarray(together).view(np.uint8).reshape(len(codes), -1, 4)[:, :, :bits]


def _in_bits(codes: Array, bits: int) -> Array:
    """Codes one after the other as bytes, the first lowest, and a byte behind them, which is read with the last."""
    single = codes.reshape(-1, 1) >> np.arange(bits) & 1
    return np.append(np.packbits(single.astype(np.uint8).reshape(-1), bitorder="little"), np.uint8(0))


def _without_zeros(row: Array, values: Array | None) -> Array:
    """Pairs of what is not zero: bytes of how many zeros lie before each of both, and of both, or of their codes."""
    places = np.flatnonzero(row)
    zeros = np.diff(places, prepend=-1) - 1
    last = np.cumsum(zeros // (_MOST_ZEROS + 1) + 1) - 1
    count = int(last[-1]) + 1 if len(last) else 0
    before, weights = np.zeros((2, count + count % 2), np.int64)
    before[:count], before[last], weights[last] = _MOST_ZEROS, zeros % (_MOST_ZEROS + 1), row[places]
    weights = weights if values is None else np.searchsorted(values, weights)
    columns = [before[0::2] | before[1::2] << 4, weights[0::2], weights[1::2]]
    if values is not None:
        columns = [columns[0], columns[1] | columns[2] << 4]
    return np.stack(columns, axis=1).astype(np.uint8)


def _filled(rows: Array, multiple: int, mode: Literal["constant", "edge"] = "constant") -> Array:
    """Rows of so many numbers or a multiple of that, with zeros behind them, or with their last numbers again."""
    return np.pad(rows, [(0, 0), (0, -rows.shape[1] % multiple)], mode)


def _in_words(numbers: Array) -> Array:
    """Bytes as words, the first byte lowest."""
    return np.ascontiguousarray((numbers & 0xFF).astype(np.uint8)).view("<u4").astype(np.uint32)
