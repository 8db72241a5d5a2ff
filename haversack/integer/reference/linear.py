"""Convolutions and fully connected layers: sums of products, then one fixed-point factor an output channel.

TFLite's 8-bit quantization specification: weights have zero point 0 and one step per output channel (or one in all),
the bias counts in steps of input step x weight step.
"""

from __future__ import annotations

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import multiply, multiply_wide, quantize_multiplier
from haversack.integer.reference.call import Call, Kernel, steps
from haversack.integer.windows import extent, padded, patches, same_padding, taps


def convolve(call: Call) -> Array:
    """CONV_2D; the depth of the filters says how many groups there are."""
    weights = call.array(1)
    filter_size, stride, dilation = weights.shape[1:3], call.option("stride"), call.option("dilation")
    x, weights = _exact(call, 0, weights)
    x = padded(x, extent(filter_size, dilation), stride, call.option("padding"))
    columns = patches(x, filter_size, stride, dilation)
    depth = weights.shape[3]
    groups = columns.shape[5] // depth
    sums = [
        columns[..., group * depth : (group + 1) * depth].reshape(-1, filter_size[0] * filter_size[1] * depth)
        @ part.reshape(len(part), -1).T
        for group, part in enumerate(np.split(weights, groups))
    ]
    total = np.concatenate(sums, axis=1) if groups > 1 else sums[0]
    return _rescale(call, total.reshape(*columns.shape[:3], -1), _product(call, 0), wide=_wide_bias(call))


def convolve_depthwise(call: Call) -> Array:
    """DEPTHWISE_CONV_2D: each channel has `depth_multiplier` filters of its own."""
    weights = call.array(1)
    filter_size, stride, dilation = weights.shape[1:3], call.option("stride"), call.option("dilation")
    x, weights = _exact(call, 0, weights, axis=3)
    x = padded(x, extent(filter_size, dilation), stride, call.option("padding"))
    x = np.repeat(x, weights.shape[3] // x.shape[3], axis=3)
    products = (tap * weights[0, row, column] for row, column, tap in taps(x, filter_size, stride, dilation))
    total = next(products)
    for product in products:
        total += product
    return _rescale(call, total, _product(call, 0), wide=_wide(call))


def convolve_transposed(call: Call) -> Array:
    """TRANSPOSE_CONV: its inputs are the output's shape, the weights, what it reads and the bias."""
    weights, stride, size = call.array(1), call.option("stride"), call.outputs[0].shape[1:3]
    filter_size = weights.shape[1:3]
    x, weights = _exact(call, 2, weights)
    spread = [(length - 1) * s for length, s in zip(x.shape[1:3], stride, strict=True)]
    before = [
        0 if call.option("padding") == "VALID" else same_padding(*sizes)[0]
        for sizes in zip(size, filter_size, stride, strict=True)
    ]
    room = [max(s + f, b + out) for s, f, b, out in zip(spread, filter_size, before, size, strict=True)]
    total = np.zeros((len(x), *room, len(weights)), x.dtype)
    for row, column in np.ndindex(*filter_size):
        rows = slice(row, row + spread[0] + 1, stride[0])
        columns = slice(column, column + spread[1] + 1, stride[1])
        total[:, rows, columns] += x @ weights[:, row, column].T
    total = total[:, before[0] : before[0] + size[0], before[1] : before[1] + size[1]]
    return _rescale(call, total, _product(call, 2), bias=3, wide=_wide(call))


def connect(call: Call) -> Array:
    """FULLY_CONNECTED: the last dimension, or all but the batch, times a matrix (out, in)."""
    x, weights = _exact(call, 0, call.array(1))
    total = x.reshape(-1, weights.shape[1]) @ weights.T
    if call.option("keep_num_dims"):
        total = total.reshape(*x.shape[:-1], -1)
    return _rescale(call, total, _product(call, 0), wide=_wide(call))


def _exact(call: Call, index: int, weights: Array, axis: int = 0) -> tuple[Array, Array]:
    """Input `index` less its zero point, and the weights, in the smallest float type that adds their products exactly.

    Whole numbers below 2^24 (float32) and 2^53 (float64) are exact, in whatever order a matrix product adds them.
    """
    if not call.integer:
        return call.array(index).astype(np.float32), weights.astype(np.float32)
    largest = 1 << (8 if call.array(index).dtype == np.int8 else 16)
    others = tuple(dim for dim in range(weights.ndim) if dim != axis)
    sums = np.abs(weights.astype(np.int64)).sum(axis=others)
    dtype = np.float32 if int(sums.max()) * largest < 1 << 24 else np.float64
    return call.centred(index).astype(dtype), weights.astype(dtype)


def _wide(call: Call) -> bool:
    """Whether TFLite adds up in 64 bits: for 16-bit activations."""
    return call.outputs[0].dtype == "int16"


def _wide_bias(call: Call) -> bool:
    """Whether CONV_2D adds up in 64 bits: 16-bit activations with a 64-bit bias; a 32-bit bias means 32 bits."""
    return _wide(call) and not (call.has(2) and call.array(2).dtype == np.int32)


def _product(call: Call, data: int) -> Array:
    """The step of input `data` times the steps of the weights, in float64."""
    return call.scale(data) * steps(call.inputs[1])


def _rescale(call: Call, total: Array, product: Array, *, bias: int = 2, wide: bool) -> Array:
    """The sums, which count in steps of `product`, with their bias on the output's grid."""
    if not call.integer:
        return call.finish(total + call.array(bias) if call.has(bias) else total)
    total = total.astype(np.int64)
    if call.has(bias):
        total += call.array(bias).astype(np.int64)
    by = quantize_multiplier(product / call.output_scale)
    return call.finish((multiply_wide if wide else multiply)(total, by))


KERNELS: dict[str, Kernel] = {
    "CONV_2D": convolve,
    "DEPTHWISE_CONV_2D": convolve_depthwise,
    "TRANSPOSE_CONV": convolve_transposed,
    "FULLY_CONNECTED": connect,
}
