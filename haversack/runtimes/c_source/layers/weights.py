"""Weights as the C kernels read them: in words, the input's zero point in the biases, sums known to be small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import Multiplier, multiply
from haversack.integer.parameters import Products
from haversack.runtimes.c_source.constants import Constants, Entry
from haversack.runtimes.c_source.layers.call import Layer, ending

_SMALL = 1 << 30
_MOST_SHIFT = 23
"""A zero point that is moved so far to the left leaves room for a sum."""
_TIMES = {"bytes": 1, "halves": 16, "depthwise": 2}
"""How many times the sums are that the kernels add up."""
_BLOCK = 4
"""Channels of a fully connected layer that lie between each other."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a layer multiplies by: weights (out, ...), a bias and a factor a channel."""

    name: str
    weights: Array
    biases: Array
    by: Multiplier
    ending: dict[str, Entry]
    bits: int
    flags: frozenset[str]

    @classmethod
    def read(cls, layer: Layer, by: Products, *, folded: bool = True) -> LayerWeights:
        """Those of a layer. Where zeros beside the map are multiplied like others, the zero point is `folded`."""
        if by.by is None:
            raise layer.refuse("on real numbers")
        weight = layer.value("weight")
        depthwise = layer.operation.kind == "DEPTHWISE_CONV_2D"
        weights = np.asarray(weight.data, np.int64)
        weights = np.moveaxis(weights[0], 2, 0) if depthwise else weights
        channels, flat = len(weights), weights.reshape(len(weights), -1)
        bias = layer.operation.input("bias")
        biases = np.asarray(layer.graph.values[bias].data, np.int64) if bias else np.zeros(channels, np.int64)
        factors = _each(by.by, channels)
        biases, factors = _with_constants(flat, biases, factors)
        largest = np.abs(flat).sum(axis=1) * 255 + np.abs(biases)
        if folded:
            biases = biases - by.input_zero * flat.sum(axis=1)
        narrow = weight.grid is not None and weight.grid.bits <= 4
        flags = summed(largest, factors) | ({"4_BITS"} if narrow else set())
        times = _TIMES["depthwise" if depthwise else "halves" if narrow else "bytes"]
        if int(largest.max()) * times >= 1 << 31:
            raise layer.refuse(f"whose sums, {times} times over, have more than 32 bits")
        return cls(layer.name, weights, biases, factors, ending(by.output), 4 if narrow else 8, flags)

    def in_rows(self, words: int) -> Array:
        """A channel's weights one after the other, each channel filled up to whole words."""
        return _packed(self._filled(words), self.bits)

    def between(self, words: int) -> Array:
        """Words of four channels in turns; those of the last ones, where they are not four, one after the other."""
        rows = self._filled(words)
        rows = rows if self.bits == 8 else _in_halves(rows)
        step = rows.shape[1] // (-(-words // (1 if self.bits == 8 else 2)))
        whole = len(rows) // _BLOCK * _BLOCK
        blocks = rows[:whole].reshape(-1, _BLOCK, rows.shape[1] // step, step).swapaxes(1, 2)
        return _words(np.concatenate([blocks.reshape(-1), rows[whole:].reshape(-1)]))

    def by_channel(self, dilation: int = 1) -> Array:
        """A channel's weights in rows; a dilated window has zeros between its columns."""
        channels, height, width = self.weights.shape
        spread = np.zeros((channels, height, (width - 1) * dilation + 1), np.int64)
        spread[:, :, ::dilation] = self.weights
        return self.in_bytes(spread)

    def in_bytes(self, weights: Array) -> Array:
        """Weights one after the other, two a byte where they have 4 bits, filled up to a whole word in the end."""
        flat = weights.reshape(-1)
        if self.bits == 4:
            flat = np.append(flat, np.zeros(len(flat) % 2, np.int64))
            flat = (flat[0::2] & 0xF) | ((flat[1::2] & 0xF) << 4)
        return _words(np.append(flat, np.zeros(-len(flat) % 4, np.int64)))

    def record(self, constants: Constants, weights: Array) -> dict[str, Entry]:
        """The layer's products in C."""
        mantissas, shifts = self.by.mantissa.astype(np.int32), (-self.by.shift).astype(np.int8)
        each = len(np.unique(mantissas)) > 1 or len(np.unique(shifts)) > 1
        many = len(mantissas) if each else 1
        return {
            "weights": constants.numbers(f"{self.name}_weights", weights),
            "biases": constants.numbers(f"{self.name}_biases", self.biases.astype(np.int32)),
            "factors": constants.numbers(f"{self.name}_factors", mantissas[:many]),
            "shifts": constants.numbers(f"{self.name}_shifts", shifts[:many]),
            **self.ending,
            "factor_each": int(each),
            "bits": self.bits,
        }

    def _filled(self, words: int) -> Array:
        flat = self.weights.reshape(len(self.weights), -1)
        return np.pad(flat, [(0, 0), (0, 4 * words - flat.shape[1])])


def summed(largest: Array | int, by: Multiplier) -> frozenset[str]:
    """The flags of factors from one on, of shifts by nothing, and of sums or shifts that need the long way."""
    left = np.clip(by.shift, 0, 31)
    large = np.any(np.asarray(largest, np.int64) << left >= _SMALL) or np.any(by.shift < -_MOST_SHIFT)
    flags = {"LARGE_SUMS": large, "LEFT_SHIFTS": np.any(by.shift > 0), "NO_SHIFTS": np.any(by.shift >= 0)}
    return frozenset(flag for flag, raised in flags.items() if raised)


def _each(by: Multiplier, channels: int) -> Multiplier:
    """A factor for each channel."""
    return Multiplier(*(np.broadcast_to(each, channels).copy() for each in (by.mantissa, by.shift)))


def _with_constants(flat: Array, biases: Array, by: Multiplier) -> tuple[Array, Multiplier]:
    """Biases and factors where channels without weights, whose biases may be huge, count their one result itself."""
    dead = ~flat.any(axis=1)
    made = np.clip(multiply(biases, by), -_MOST_RESULT, _MOST_RESULT)
    mantissa, shift = np.where(dead, 1 << 30, by.mantissa), np.where(dead, -_ROOM, by.shift)
    return np.where(dead, made << _ROOM + 1, biases), Multiplier(mantissa, shift)


_MOST_RESULT, _ROOM = 512, 7
"""Results beyond the first are cut off anyway; so many bits more are shifted out again."""


def _packed(rows: Array, bits: int) -> Array:
    return _words(rows if bits == 8 else _in_halves(rows))


def _in_halves(rows: Array) -> Array:
    """Eight weights a word: the first four of them in the low halves of its bytes."""
    rows = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 8)])
    eights = rows.reshape(len(rows), -1, 2, 4) & 0xF
    return np.asarray(eights[:, :, 0] | eights[:, :, 1] << 4).reshape(len(rows), -1)


def _words(numbers: Array) -> Array:
    """Bytes as words, the first byte lowest."""
    return np.ascontiguousarray((numbers.reshape(-1) & 0xFF).astype(np.uint8)).view("<u4").astype(np.uint32)
