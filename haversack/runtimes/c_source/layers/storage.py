"""Storage: in how many bits each layer's weights are kept: as bytes, or as numbers of the few values that they have.

A codebook (Han et al. 2016, "Deep Compression") also takes its values and code that reads it, which is in the file once
for all layers of a kernel: whether it pays is counted over the whole network.
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
_WIDTHS = (1, 2, 3, 4)
_EIGHT = 8
"""Codes that are read at once: in as many bytes as each has bits."""
_POINTER_BYTES = 4
CODE_BYTES = {"convolve": (480, 250), "connect": (560, 300), "convolve_depthwise": (60, 0)}
"""What each kernel of a network takes more where there are codes: for one width, and each other (GCC, Cortex-M4)."""
_BLOCK = 4
"""Channels of a fully connected layer that lie between each other."""


@dataclass(frozen=True, eq=False)
class Rows:
    """A layer's weights in the order in which its kernel reads them, a channel in each row."""

    kernel: str
    numbers: Array

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
        return cls("connect" if single else "convolve", rows)

    @property
    def values(self) -> Array:
        """The values that weights have, also those that rows are filled up with."""
        return np.unique(self._eights)

    def packed(self, bits: int) -> Array:
        """The weights in an array: bytes in words, or codes, which are places among the values, in as many bits."""
        if bits == BYTE:
            numbers = self.numbers.reshape(1, -1) if self._is_one else self.numbers
            return _in_words(self._in_turns(_filled(numbers, 4).reshape(len(numbers), -1, 4)))
        codes = np.searchsorted(self.values, self._eights)
        if self._is_one:
            return _in_bits(codes, bits)
        bytes_of_eights = self._in_turns(_in_eights(codes, bits))
        return np.frombuffer(bytes_of_eights.tobytes(), _EIGHT_TYPES[bits])

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Bits of a weight, and the bytes that all of them then take."""
        yield BYTE, self.packed(BYTE).nbytes
        count = len(self.values)
        fewer = (bits for bits in _WIDTHS if count <= 1 << bits)
        yield from ((bits, self.packed(bits).nbytes + (1 << bits) + _POINTER_BYTES) for bits in fewer)

    @property
    def _is_one(self) -> bool:
        """Whether a channel's weights begin where those of the one before end."""
        return self.kernel in ("convolve_depthwise", "convolve_transposed")

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


def widths(graph: IntegerGraph) -> Mapping[str, int]:
    """The bits of a weight, by what its layer makes, where they are fewer than those of a byte."""
    layers = {
        operation.outputs[0]: Rows.of(graph, operation)
        for operation in graph.operations
        if operation.kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and _has_integers(graph, operation)
    }
    sizes = {name: dict(rows.sizes()) for name, rows in layers.items()}
    kernels = {rows.kernel for rows in layers.values()}

    def flash(some: Sequence[int]) -> int:
        code = (CODE_BYTES[kernel] for kernel in kernels if some)
        more = sum(first + other * (len(some) - 1) for first, other in code)
        return more + sum(each[_narrowest(each, some)] for each in sizes.values())

    choices = (some for count in range(len(_WIDTHS) + 1) for some in itertools.combinations(_WIDTHS, count))
    allowed = min(choices, key=flash)
    best = {name: _narrowest(each, allowed) for name, each in sizes.items()}
    return {name: bits for name, bits in best.items() if bits != BYTE}


def _has_integers(graph: IntegerGraph, operation: Operation) -> bool:
    weight = graph.values[operation.input("weight")]
    return weight.data is not None and weight.dtype == "int8"


def _narrowest(sizes: Mapping[int, int], allowed: Sequence[int]) -> int:
    return min((bits for bits in (BYTE, *allowed) if bits in sizes), key=lambda bits: sizes[bits])


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


def _filled(rows: Array, multiple: int, mode: Literal["constant", "edge"] = "constant") -> Array:
    """Rows of so many numbers or a multiple of that, with zeros behind them, or with their last numbers again."""
    return np.pad(rows, [(0, 0), (0, -rows.shape[1] % multiple)], mode)


def _in_words(numbers: Array) -> Array:
    """Bytes as words, the first byte lowest."""
    return np.ascontiguousarray((numbers & 0xFF).astype(np.uint8)).view("<u4").astype(np.uint32)
