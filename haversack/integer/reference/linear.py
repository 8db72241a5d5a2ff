"""Convolutions and fully connected layers: sums of products, then one fixed-point factor an output channel.

TFLite's 8-bit quantization specification: weights have zero point 0 and one step per output channel (or one in all),
the bias counts in steps of input step x weight step. Products of two values are of real numbers.
"""

from __future__ import annotations

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import multiply_wide
from haversack.integer.parameters import MatrixProduct, Products, RoundedProducts, WindowedProducts
from haversack.integer.reference.call import Kernel, KernelCall, centred, finish, scaled
from haversack.integer.windows import padded, patches, taps


def convolve(call: KernelCall, by: WindowedProducts) -> Array:
    """CONV_2D; the depth of the filters says how many groups there are."""
    x, weights = _exact(call.array(0), call.array(1), by)
    columns = patches(padded(x, by.sides), by.window)
    depth = weights.shape[3]
    groups = columns.shape[5] // depth
    sums = [
        columns[..., group * depth : (group + 1) * depth].reshape(-1, weights[0].size) @ part.reshape(len(part), -1).T
        for group, part in enumerate(np.split(weights, groups))
    ]
    total = np.concatenate(sums, axis=1) if groups > 1 else sums[0]
    return _rescaled(call, total.reshape(*columns.shape[:3], -1), by)


def convolve_depthwise(call: KernelCall, by: WindowedProducts) -> Array:
    """DEPTHWISE_CONV_2D: each channel has `depth_multiplier` filters of its own."""
    x, weights = _exact(call.array(0), call.array(1), by, axis=3)
    x = np.repeat(padded(x, by.sides), weights.shape[3] // x.shape[3], axis=3)
    products = (tap * weights[0, row, column] for row, column, tap in taps(x, by.window))
    total = next(products)
    for product in products:
        total += product
    return _rescaled(call, total, by)


def convolve_transposed(call: KernelCall, by: WindowedProducts) -> Array:
    """TRANSPOSE_CONV: its inputs are the output's shape, the weights, what it reads and the bias."""
    x, weights = _exact(call.array(2), call.array(1), by)
    stride, kernel, size = by.window.stride, by.window.kernel, call.outputs[0].shape[1:3]
    spread = [(length - 1) * s for length, s in zip(x.shape[1:3], stride, strict=True)]
    (top, _), (left, _) = by.sides
    room = [max(s + f, b + out) for s, f, b, out in zip(spread, kernel, (top, left), size, strict=True)]
    total = np.zeros((len(x), *room, len(weights)), x.dtype)
    for row, column in np.ndindex(*kernel):
        rows = slice(row, row + spread[0] + 1, stride[0])
        columns = slice(column, column + spread[1] + 1, stride[1])
        total[:, rows, columns] += x @ weights[:, row, column].T
    return _rescaled(call, total[:, top : top + size[0], left : left + size[1]], by, bias=3)


def connect(call: KernelCall, by: Products) -> Array:
    """FULLY_CONNECTED: the last dimension, or all but the batch, times a matrix (out, in)."""
    x, weights = _exact(call.array(0), call.array(1), by)
    rows = x.reshape(-1, weights.shape[1])
    total = _by_rounded_rows(rows, weights, by) if isinstance(by, RoundedProducts) else rows @ weights.T
    if call.operation.option("keep_num_dims"):
        total = total.reshape(*x.shape[:-1], -1)
    return _rescaled(call, total, by)


def _by_rounded_rows(rows: Array, weights: Array, by: RoundedProducts) -> Array:
    """The rows, each rounded to 8 bits that span it and zero, times the weights."""
    low, high = np.minimum(rows.min(-1, keepdims=True), 0), np.maximum(rows.max(-1, keepdims=True), 0)
    step = np.where(high > low, (high - low) / np.float32(255), np.float32(1)).astype(np.float32)
    zero = np.round(-128 - low / step)
    integers = np.clip(np.round(rows / step) + zero, -128, 127) - zero
    sums = integers.astype(np.float64) @ weights.T.astype(np.float64)
    return np.asarray(sums * step * by.steps, np.float32)


def multiply_matrices(call: KernelCall, by: MatrixProduct) -> Array:
    """BATCH_MATMUL: the last two axes are matrices, those before them stretched where they have length 1."""
    turned = (by.turns_left, by.turns_right)
    left, right = (call.array(side).swapaxes(-1, -2) if turned[side] else call.array(side) for side in (0, 1))
    return np.asarray(left @ right)


def _exact(x: Array, weights: Array, by: Products, axis: int = 0) -> tuple[Array, Array]:
    """What is read, less its zero point, and the weights, in the smallest float type that adds their products exactly.

    Whole numbers below 2^24 (float32) and 2^53 (float64) are exact, in whatever order a matrix product adds them.
    """
    if by.by is None:
        return x.astype(np.float32), weights.astype(np.float32)
    largest = 1 << (8 if x.dtype == np.int8 else 16)
    others = tuple(dim for dim in range(weights.ndim) if dim != axis)
    sums = np.abs(weights.astype(np.int64)).sum(axis=others)
    dtype = np.float32 if int(sums.max()) * largest < 1 << 24 else np.float64
    return centred(x, by.input_zero).astype(dtype), weights.astype(dtype)


def _rescaled(call: KernelCall, total: Array, by: Products, *, bias: int = 2) -> Array:
    """The sums with their bias, on the output's grid."""
    if by.by is None:
        return finish(total + call.array(bias) if call.has(bias) else total, by.output)
    total = total.astype(np.int64)
    if call.has(bias):
        total += call.array(bias).astype(np.int64)
    return finish(multiply_wide(total, by.by) if by.wide else scaled(total, by.by), by.output)


KERNELS: dict[str, Kernel] = {
    "CONV_2D": convolve,
    "DEPTHWISE_CONV_2D": convolve_depthwise,
    "TRANSPOSE_CONV": convolve_transposed,
    "FULLY_CONNECTED": connect,
    "BATCH_MATMUL": multiply_matrices,
}
