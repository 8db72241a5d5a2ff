"""Pools, means and everything that only moves numbers: such values share the grid of what they read."""

from __future__ import annotations

import numpy as np

from haversack.errors import MeasureError
from haversack.integer import Array
from haversack.integer.parameters import Border, Joined, Mean, Nearest, Parts, Pooled, Reduction, Same, Steps, Turned
from haversack.integer.reference.call import Kernel, KernelCall, centred, finish, scaled
from haversack.integer.windows import padded, taps


def pool_average(call: KernelCall, by: Pooled) -> Array:
    """AVERAGE_POOL_2D: what "SAME" adds is not counted; whole numbers are rounded half away from zero."""
    x = call.array(0).astype(np.int64 if call.integer else np.float32)
    total = np.asarray(sum(tap for *_, tap in taps(padded(x, by.sides), by.window)))
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    count = np.asarray(sum(tap for *_, tap in taps(padded(ones, by.sides), by.window)))
    if not call.integer:
        return finish(total / count, by.output)
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return finish(mean - by.output.zero_point, by.output)


def pool_max(call: KernelCall, by: Pooled) -> Array:
    """MAX_POOL_2D: what "SAME" adds is never the largest."""
    x = call.array(0)
    lowest = np.iinfo(x.dtype).min if call.integer else -np.inf
    largest = None
    for *_, tap in taps(padded(x, by.sides, lowest), by.window):
        largest = tap if largest is None else np.maximum(largest, tap)
    return finish(centred(np.asarray(largest), by.output.zero_point), by.output)


def mean(call: KernelCall, by: Mean) -> Array:
    """MEAN, whose count is divided out of the fixed-point factor."""
    x = call.array(0)
    if by.by is None:
        return np.asarray(x.mean(axis=by.axes, keepdims=by.keep_dims, dtype=np.float32))
    total = centred(x, by.input_zero).sum(axis=by.axes, keepdims=by.keep_dims)
    return finish(scaled(total, by.by), by.output)


def total(call: KernelCall, by: Reduction) -> Array:
    """SUM of real numbers."""
    return np.asarray(call.array(0).sum(axis=by.axes, keepdims=by.keep_dims, dtype=np.float32))


def reduce_max(call: KernelCall, by: Reduction) -> Array:
    """REDUCE_MAX."""
    return np.asarray(call.array(0).max(axis=by.axes, keepdims=by.keep_dims))


def concatenate(call: KernelCall, by: Joined) -> Array:
    """CONCATENATION."""
    rows = max(len(call.array(index)) for index in range(len(call.arrays)))
    parts = [call.array(index) for index in range(len(call.arrays))]
    if by.axis:
        # A constant holds one row and serves every row of a batch.
        parts = [np.broadcast_to(part, (rows, *part.shape[1:])) if len(part) == 1 else part for part in parts]
    joined = np.concatenate(parts, axis=by.axis)
    return joined if call.integer else finish(joined, by.output)


def pad(call: KernelCall, by: Border) -> Array:
    """PAD with 0.0, PADV2 with the one number of its third input."""
    return np.pad(call.array(0), by.sides, constant_values=by.fill)


def reshape(call: KernelCall, _: Same) -> Array:
    """RESHAPE: every row of a batch takes the output's shape."""
    return _shaped(call.array(0), call)


def _shaped(x: Array, call: KernelCall) -> Array:
    shape = call.outputs[0].shape
    return x.reshape(-1, *shape[1:]) if shape else x.reshape(())


def transpose(call: KernelCall, by: Turned) -> Array:
    """TRANSPOSE."""
    return np.ascontiguousarray(call.array(0).transpose(by.order))


def slice_strided(call: KernelCall, by: Steps) -> Array:
    """STRIDED_SLICE; an axis that it takes whole may be the batch, and longer here."""
    x = call.array(0)
    for axis, (begin, count, stride) in enumerate(zip(by.begins, by.counts, by.strides, strict=True)):
        if not by.whole[axis]:
            x = x.take(begin + stride * np.arange(count), axis=axis)
    return _shaped(x, call)


def split(call: KernelCall, by: Parts) -> tuple[Array, ...]:
    """SPLIT."""
    return tuple(np.split(call.array(1), by.count, axis=by.axis))


def resize_nearest(call: KernelCall, by: Nearest) -> Array:
    """RESIZE_NEAREST_NEIGHBOR."""
    return call.array(0).take(by.rows, axis=1).take(by.columns, axis=2)


def gather(call: KernelCall, _: Same) -> Array:
    """GATHER: rows of a table by their numbers, which runtimes check as well."""
    table, rows = call.array(0), call.array(1)
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(table):
        raise MeasureError(
            f"it is to look up row {int(rows.min())} to {int(rows.max())} of a table of {len(table)}.",
            where=call.operation.path,
            mend=f"give whole numbers from 0 to {len(table) - 1}.",
        )
    return np.asarray(table.take(rows, axis=0))


KERNELS: dict[str, Kernel] = {
    "AVERAGE_POOL_2D": pool_average,
    "MAX_POOL_2D": pool_max,
    "MEAN": mean,
    "REDUCE_MAX": reduce_max,
    "SUM": total,
    "CONCATENATION": concatenate,
    "GATHER": gather,
    "PAD": pad,
    "PADV2": pad,
    "RESHAPE": reshape,
    "TRANSPOSE": transpose,
    "STRIDED_SLICE": slice_strided,
    "SPLIT": split,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}
