"""SOFTMAX, and functions of one number (LOGISTIC, TANH, HARD_SWISH) as tflite-micro computes them."""

from __future__ import annotations

import math

import numpy as np

from haversack.integer import KINDS, Array
from haversack.integer.arithmetic import divide_by_power_of_two, doubling_high_multiply, multiply
from haversack.integer.curves import interpolate, reciprocal
from haversack.integer.parameters import Gelu, Interpolation, Lookup, RealSoftmax, Same, Softmax8, Softmax16
from haversack.integer.reference.call import Kernel, KernelCall
from haversack.integer.reference.elementwise import tabulated

_SUM_BITS = 12


def curve(call: KernelCall, by: Same | Lookup | Interpolation) -> Array:
    """A kind's own function: int8 integers looked up, int16 ones between two places of a table."""
    kind, x = call.operation.kind, call.array(0)
    if isinstance(by, Interpolation):
        return tabulated(x, lambda x: _WORDS[kind](_thirds(x, by), by.table))
    if isinstance(by, Lookup):
        return np.asarray(by.table[x.astype(np.intp) + 128])
    return _REAL[kind](x).astype(np.float32)


def _thirds(x: Array, by: Interpolation) -> Array:
    """16-bit integers in units of 1 / (3 x 4096): the table reads them by 3/4 of an eighth."""
    return (x * by.factor + (1 << by.shift >> 1)) >> by.shift


def _logistic16(x: Array, table: Array) -> Array:
    place, rest = np.abs(x) >> 9, np.abs(x) & 511
    result = np.where(place >= 255, 0x7FFF << 10, _between(table, place, rest, 9))
    result = np.where(x >= 0, result + (1 << 9), (1 << 25) - result + (1 << 9) - 1)
    return np.asarray(result >> 10, np.int16)


def _tanh16(x: Array, table: Array) -> Array:
    place, rest = np.abs(x) >> 8, np.abs(x) & 255
    result = np.where(place >= 255, 0xFFFF << 8, _between(table, place, rest, 8))
    result = np.where(x >= 0, result - (1 << 23) + (1 << 7), -result + (1 << 23) + (1 << 7) - 1)
    return np.asarray(result >> 8, np.int16)


def _between(table: Array, place: Array, rest: Array, bits: int) -> Array:
    place = np.minimum(place, 254)
    return np.asarray((table[place] << bits) + rest * (table[place + 1] - table[place]))


def gelu(call: KernelCall, by: Gelu) -> Array:
    """GELU (Hendrycks and Gimpel 2016)."""
    x = call.array(0).astype(np.float64)
    if by.approximate:
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        return np.asarray(x / 2 * (1 + np.tanh(inner)), np.float32)
    return np.asarray(x / 2 * (1 + np.asarray(_ERF(x / math.sqrt(2)), np.float64)), np.float32)


def softmax(call: KernelCall, by: RealSoftmax | Softmax8 | Softmax16) -> Array:
    """SOFTMAX over the last axis: [0, 1) in steps of 1/256 (int8) or 1/32768 (int16)."""
    x = call.array(0)
    if isinstance(by, RealSoftmax):
        power = np.exp((x - x.max(axis=-1, keepdims=True)) * np.float32(by.beta))
        return np.asarray(power / power.sum(axis=-1, keepdims=True), np.float32)
    below = x.astype(np.int64) - x.max(axis=-1, keepdims=True)
    return _softmax8(below, by) if isinstance(by, Softmax8) else _softmax16(below, by)


def _softmax8(below: Array, by: Softmax8) -> Array:
    power = by.exp.astype(np.int64)[below + 255]
    total = divide_by_power_of_two(power, _SUM_BITS).sum(axis=-1, keepdims=True)
    factor, shift = reciprocal(total, _SUM_BITS)
    result = divide_by_power_of_two(doubling_high_multiply(power, factor), shift + 31 - 8) - 128
    return np.asarray(np.clip(result, -128, 127), np.int8)


def _softmax16(below: Array, by: Softmax16) -> Array:
    power = interpolate(np.clip(multiply(below, by.by) + 32767, -32768, 32767), by.exp)
    total = power.sum(axis=-1, keepdims=True)
    zeros = 32 - np.frexp(total.astype(np.float64))[1].astype(np.int64)
    place = (((total << (zeros - 1)) + (1 << 13)) >> 14) - (1 << 15) - (1 << 16)
    inverse = interpolate(np.clip(place, -32768, 32767), by.inverse)
    shift = 31 - zeros
    result = (power * inverse + (np.int64(1) << (shift - 1))) >> shift
    return np.asarray(np.clip(result, 0, 32767), np.int16)


_ERF = np.frompyfunc(math.erf, 1, 1)
_REAL = {kind: row.curve.real for kind, row in KINDS.items() if row.curve}
_WORDS = {"LOGISTIC": _logistic16, "TANH": _tanh16}
KERNELS: dict[str, Kernel] = {
    **dict.fromkeys(_REAL, curve),
    "GELU": gelu,
    "SOFTMAX": softmax,
}
