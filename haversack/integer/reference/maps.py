"""Pools, means and everything that only moves numbers: such values share the grid of what they read."""

from __future__ import annotations

import numpy as np

from haversack.integer import Array
from haversack.integer.arithmetic import Multiplier, multiply, quantize_multiplier
from haversack.integer.reference.call import Call, Kernel
from haversack.integer.windows import padded, taps


def pool_average(call: Call) -> Array:
    """AVERAGE_POOL_2D: what "SAME" adds is not counted; whole numbers are rounded half away from zero."""
    window, stride, padding = call.option("filter"), call.option("stride"), call.option("padding")
    x = call.array(0).astype(np.int64 if call.integer else np.float32)
    total = sum(tap for *_, tap in taps(padded(x, window, stride, padding), window, stride))
    ones = np.ones((1, *x.shape[1:3], 1), x.dtype)
    count = sum(tap for *_, tap in taps(padded(ones, window, stride, padding), window, stride))
    total, count = np.asarray(total), np.asarray(count)
    if not call.integer:
        return call.finish(total / count)
    mean = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return call.finish(mean - call.zero_point)


def pool_max(call: Call) -> Array:
    """MAX_POOL_2D: what "SAME" adds is never the largest."""
    window, stride, x = call.option("filter"), call.option("stride"), call.array(0)
    lowest = np.iinfo(x.dtype).min if call.integer else -np.inf
    largest = None
    for *_, tap in taps(padded(x, window, stride, call.option("padding"), lowest), window, stride):
        largest = tap if largest is None else np.maximum(largest, tap)
    result = np.asarray(largest)
    return call.finish(result.astype(np.int64) - call.zero_point if call.integer else result)


def mean(call: Call) -> Array:
    """MEAN over the axes of the second input, whose count is divided out of the fixed-point factor."""
    axes, keep = _axes(call), call.option("keep_dims")
    if not call.integer:
        return np.asarray(call.array(0).mean(axis=axes, keepdims=keep, dtype=np.float32))
    count = int(np.prod([call.array(0).shape[axis] for axis in axes]))
    by = quantize_multiplier(call.scale(0) / call.output_scale)
    shift = min(count.bit_length() - 1, 32, 31 + int(by.shift))
    by = Multiplier((by.mantissa << shift) // count, by.shift - shift)
    return call.finish(multiply(call.centred(0).sum(axis=axes, keepdims=keep), by))


def reduce_max(call: Call) -> Array:
    """REDUCE_MAX over the axes of the second input."""
    return np.asarray(call.array(0).max(axis=_axes(call), keepdims=call.option("keep_dims")))


def _axes(call: Call) -> tuple[int, ...]:
    rank = call.array(0).ndim
    return tuple(sorted({int(axis) % rank for axis in call.array(1).reshape(-1)}))


def concatenate(call: Call) -> Array:
    """CONCATENATION along `axis`."""
    rows = max(len(call.array(index)) for index in range(len(call.arrays)))
    parts = [call.array(index) for index in range(len(call.arrays))]
    # A constant holds one row and serves every row of a batch.
    parts = [np.broadcast_to(part, (rows, *part.shape[1:])) if len(part) == 1 else part for part in parts]
    joined = np.concatenate(parts, axis=call.option("axis"))
    return joined if call.integer else call.finish(joined)


def pad(call: Call) -> Array:
    """PAD with 0.0, PADV2 with the one number of its third input."""
    fill = call.array(2).reshape(-1)[0] if call.has(2) else call.zero_point
    return np.pad(call.array(0), call.array(1).tolist(), constant_values=fill)


def reshape(call: Call) -> Array:
    """RESHAPE: every row of a batch takes the output's shape."""
    shape = call.outputs[0].shape
    return call.array(0).reshape(-1, *shape[1:]) if shape else call.array(0).reshape(())


def transpose(call: Call) -> Array:
    """TRANSPOSE by the permutation of the second input."""
    return np.ascontiguousarray(call.array(0).transpose(call.array(1).tolist()))


def slice_strided(call: Call) -> Array:
    """STRIDED_SLICE: from `begin` to `end` by `strides`; a set bit of a mask means from the start, or to the end."""
    begin, end, strides = (call.array(index).tolist() for index in (1, 2, 3))
    from_start, to_end, shrink = (call.option(f"{mask}_mask") for mask in ("begin", "end", "shrink_axis"))
    where: list[int | slice] = []
    for axis, (low, high, stride) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << axis
        if shrink & bit:
            where.append(low)
        elif axis == 0 and call.outputs[0].shape[:1] == (1,):
            where.append(slice(None))
        else:
            where.append(slice(None if from_start & bit else low, None if to_end & bit else high, stride))
    return np.ascontiguousarray(call.array(0)[tuple(where)])


def split(call: Call) -> tuple[Array, ...]:
    """SPLIT of the second input into `num_splits` equal parts along the axis that is the first input."""
    return tuple(np.split(call.array(1), call.option("num_splits"), axis=int(call.array(0).reshape(-1)[0])))


def resize_nearest(call: Call) -> Array:
    """RESIZE_NEAREST_NEIGHBOR to the height and width of the second input."""
    x = call.array(0)
    for axis, size in zip((1, 2), call.array(1).reshape(-1).tolist(), strict=True):
        x = np.take(x, _nearest(x.shape[axis], size, call), axis=axis)
    return x


def _nearest(length: int, size: int, call: Call) -> Array:
    """Which of `length` places each of `size` places reads; the arithmetic is float32's."""
    corners = call.option("align_corners") and size > 1
    scale = np.float32(length - 1) / np.float32(size - 1) if corners else np.float32(length) / np.float32(size)
    offset = np.float32(0.5 if call.option("half_pixel_centers") else 0)
    place = (np.arange(size, dtype=np.float32) + offset) * scale
    place = np.floor(place + np.float32(0.5)) if corners else np.floor(place)
    return np.asarray(np.clip(place, 0, length - 1), np.intp)


KERNELS: dict[str, Kernel] = {
    "AVERAGE_POOL_2D": pool_average,
    "MAX_POOL_2D": pool_max,
    "MEAN": mean,
    "REDUCE_MAX": reduce_max,
    "CONCATENATION": concatenate,
    "PAD": pad,
    "PADV2": pad,
    "RESHAPE": reshape,
    "TRANSPOSE": transpose,
    "STRIDED_SLICE": slice_strided,
    "SPLIT": split,
    "RESIZE_NEAREST_NEIGHBOR": resize_nearest,
}
