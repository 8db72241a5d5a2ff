"""Weights as the C kernels read them: packed, the input's zero point in the biases, sums known to be small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import Multiplier, multiply, multiply_wide
from haversack.integer.parameters import Products
from haversack.runtimes.c_source.constants import Constants, Entry
from haversack.runtimes.c_source.layers.call import Layer, ending, span
from haversack.runtimes.c_source.layers.storage import Rows, Stored

_SMALL = 1 << 30
_MOST_SHIFT = 23
"""A zero point that is moved so far to the left leaves room for a sum."""

_LONGEST = 47
"""Bits of a sum that a factor of 16 bits leaves within 64."""


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """What a layer multiplies by: weights, a channel in each row, a bias and a factor a channel."""

    name: str
    stored: Stored
    wide: bool
    """Whether sums end as those of numbers of 16 bits do."""
    biases: Array
    by: Multiplier
    ending: dict[str, Entry]
    flags: frozenset[str]

    @classmethod
    def read(cls, layer: Layer, by: Products, *, folded: bool = True) -> LayerWeights:
        """Those of a layer. Where zeros beside the map are multiplied like others, the zero point is `folded`."""
        if by.by is None:
            raise layer.refuse("on real numbers")
        stored = layer.stored.get(layer.result.name) or Stored.as_bytes(Rows.of(layer.graph, layer.operation))
        rows = stored.rows
        flat, channels = rows.numbers, len(rows.numbers)
        bias = layer.operation.input("bias")
        biases = np.asarray(layer.graph.values[bias].data, np.int64) if bias else np.zeros(channels, np.int64)
        factors = _each(by.by, channels)
        biases, factors = _with_constants(flat, biases, factors, wide=by.wide)
        largest = np.abs(flat).sum(axis=1) * span(layer.value("input")) + np.abs(biases)
        if folded:
            biases = biases - by.input_zero * flat.sum(axis=1)
        times = 2 if rows.kernel == "convolve_depthwise" else 1
        has_long = by.wide and rows.kernel != "convolve_transposed"
        if int(largest.max()) * times >= 1 << (_LONGEST if has_long else 31):
            raise layer.refuse(f"whose sums may have more than {_LONGEST if has_long else 32} bits")
        if int(largest.max()) * times >= 1 << 31:
            stored = Stored.as_bytes(replace(rows, kernel="convolve_long_16"))
        flags = stored.form.flags if by.wide else summed(largest, factors) | stored.form.flags
        return cls(layer.name, stored, by.wide, biases, factors, ending(by.output), flags)

    @property
    def is_long(self) -> bool:
        """Whether sums have 64 bits."""
        return self.stored.rows.kernel == "convolve_long_16"

    def record(self, constants: Constants) -> dict[str, Entry]:
        """The layer's products in C."""
        mantissas, shifts = self.by.mantissa.astype(np.int32), (-self.by.shift).astype(np.int8)
        if self.wide:
            mantissas, shifts = np.minimum((self.by.mantissa + (1 << 15)) >> 16, 0x7FFF).astype(np.int32), shifts + 15
        each = len(np.unique(mantissas)) > 1 or len(np.unique(shifts)) > 1
        many = len(mantissas) if each else 1
        return {
            **dict(self._arrays(constants)),
            "factors": constants.numbers(f"{self.name}_factors", mantissas[:many]),
            "shifts": constants.numbers(f"{self.name}_shifts", shifts[:many]),
            **self.ending,
            "factor_each": int(each),
            "bits": self.stored.form.bits,
            "wide": int(self.wide),
        }

    def _arrays(self, constants: Constants) -> Iterator[tuple[str, Entry]]:
        """Weights as the kernel reads them, with what it has to know of their form, and biases of 32 bits."""
        for name, numbers in self.stored.arrays.items():
            yield name, constants.numbers(f"{self.name}_{name}", numbers)
        if not self.is_long:
            yield "biases", constants.numbers(f"{self.name}_biases", self.biases.astype(np.int32))


def summed(largest: Array | int, by: Multiplier) -> frozenset[str]:
    """The flags of factors from one on, of shifts by nothing, and of sums or shifts that need the long way."""
    left = np.clip(by.shift, 0, 31)
    large = np.any(np.asarray(largest, np.int64) << left >= _SMALL) or np.any(by.shift < -_MOST_SHIFT)
    flags = {"LARGE_SUMS": large, "LEFT_SHIFTS": np.any(by.shift > 0), "NO_SHIFTS": np.any(by.shift >= 0)}
    return frozenset(flag for flag, raised in flags.items() if raised)


def _each(by: Multiplier, channels: int) -> Multiplier:
    """A factor for each channel."""
    return Multiplier(*(np.broadcast_to(each, channels).copy() for each in (by.mantissa, by.shift)))


def _with_constants(flat: Array, biases: Array, by: Multiplier, *, wide: bool) -> tuple[Array, Multiplier]:
    """Biases and factors where channels without weights, whose biases may be huge, count their one result itself."""
    dead = ~flat.any(axis=1)
    made = np.clip((multiply_wide if wide else multiply)(biases, by), -_MOST_RESULT, _MOST_RESULT)
    mantissa, shift = np.where(dead, 1 << 30, by.mantissa), np.where(dead, -_ROOM, by.shift)
    return np.where(dead, made << _ROOM + 1, biases), Multiplier(mantissa, shift)


_MOST_RESULT, _ROOM = 1 << 17, 7
"""Results beyond the first are cut off anyway; so many bits more are shifted out again."""
