"""Shapes: what moves numbers and leaves them as they are; much of it is settled now and never runs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import cast

import numpy as np
import torch

from haversack.graph.pairs import pairs
from haversack.integer.read.builder import Builder
from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.ending import rounding, signed_shift
from haversack.integer.read.placed import Columns, Constant, Group, Order, Placed, Sizes, channels_last, groups
from haversack.integer.read.windows import padded

aten = torch.ops.aten
_BOTH = (8, 16)


def reshape(call: TorchCall) -> Placed | Constant:
    """A RESHAPE, or nothing where the numbers lie right; a TRANSPOSE before it only where dimensions are mixed.

    A constant is reshaped now.
    """
    constant = call.constant(call.first)
    if constant is not None:
        return Constant(constant.tensor.reshape(call.node.meta["val"].shape))
    x, sizes = call.raw, call.sizes
    if x.sizes == sizes:
        return x
    x = call.builder.unmixed(x)
    blocks = groups(x.sizes, sizes)
    if sum(len(block.before) for block in blocks) != len(x.long()):
        call.refuse("into these sizes")
    mixed = _mixed(x, blocks, len(sizes))
    if mixed is not None:
        target = replace(x, order=tuple(range(len(sizes))), sizes=sizes)
        return replace(call.builder.reshape(x, target), columns=mixed)
    x = _untangled(call.builder, x, blocks)
    follow = [dim for old in x.long() for block in blocks if block.before[0] == old for dim in block.after]
    order = _in_place(x, follow, blocks, sizes) or _ordered(x, follow, sizes)
    return call.builder.reshape(x, replace(x, order=order, sizes=sizes))


def _mixed(x: Placed, blocks: list[Group], rank: int) -> Columns | None:
    """How the last dimension's columns lie, where they are a flattened block in another order than torch's."""
    last, long = blocks[-1] if blocks else Group((), ()), x.long()
    inside = long[len(long) - len(last.before) :]
    front = [dim for block in blocks[:-1] for dim in block.before]
    if last.after != (rank - 1,) or set(inside) != set(last.before) or tuple(inside) == last.before:
        return None
    if long[: len(front)] != front or any(len(block.before) > 1 for block in blocks[:-1]):
        return None
    back = tuple(inside.index(dim) for dim in last.before)
    return Columns(tuple(x.sizes[dim].number for dim in inside), back)


def _untangled(builder: Builder, x: Placed, blocks: list[Group]) -> Placed:
    """The value with the dimensions of each block side by side in torch's order."""
    wanted: list[int] = []
    for dim in x.long():
        block = next(each for each in blocks if dim in each.before)
        wanted += [each for each in block.before if each not in wanted]
    if wanted == x.long():
        return x
    short = [dim for dim in range(x.rank) if x.sizes[dim].is_one]
    return builder.laid(x, (*wanted, *short) if 0 not in short else (*short, *wanted))


def _in_place(x: Placed, follow: list[int], blocks: list[Group], sizes: Sizes) -> Order | None:
    """The order in which the value as it lies has the new sizes; None where it must be reshaped."""
    short = [dim for dim, size in enumerate(sizes) if size.is_one]
    free = sum(dim is None or x.sizes[dim].is_one for dim in x.order)
    if len(short) > free or any(len(block.before) > 1 or len(block.after) > 1 for block in blocks):
        return None
    longs, shorts = iter(follow), iter(short)
    return tuple(next(shorts, None) if dim is None or x.sizes[dim].is_one else next(longs) for dim in x.order)


def _ordered(x: Placed, follow: list[int], sizes: Sizes) -> Order:
    """An order for the new sizes in which the long dimensions follow each other so; channels last where that fits."""
    rank = len(sizes)
    plain = tuple(range(rank))
    last = (0, *range(2, rank), 1) if rank > 2 else plain
    straight = [dim for dim in x.order if dim is not None] == list(range(x.rank))
    for order in (plain, last) if straight else (last, plain):
        if [dim for dim in order if not sizes[dim].is_one] == follow:
            return order
    order_ = list(follow)
    for dim in range(rank):
        if sizes[dim].is_one:
            order_.insert(order_.index(dim - 1) + 1 if dim else 0, dim)
    return tuple(order_)


def permute(call: TorchCall) -> Placed:
    """Nothing: the dimensions get other names."""
    return _permuted(call, [dim % call.raw.rank for dim in call["dims"]])


def transpose(call: TorchCall) -> Placed:
    """Nothing: two dimensions swap their names."""
    dims = list(range(call.raw.rank))
    one, other = call["dim0"], call["dim1"]
    dims[one], dims[other] = dims[other], dims[one]
    return _permuted(call, dims)


def _permuted(call: TorchCall, dims: list[int]) -> Placed:
    x = call.builder.unmixed(call.raw)
    order = tuple(None if dim is None else dims.index(dim) for dim in x.order)
    return replace(x, order=order, sizes=tuple(x.sizes[dim] for dim in dims))


def expand(call: TorchCall) -> Placed | Constant:
    """Nothing: whoever reads it broadcasts; a constant is expanded now."""
    constant = call.constant(call.first)
    if constant is not None:
        return Constant(constant.real.expand([size.number for size in call.sizes]))
    readers = [call.node]
    for node in readers:
        aside = [user for user in node.users if user.target is pairs.dequantize_per_tensor.default]
        if any(user not in aside and user.target not in _BROADCASTS for user in node.users):
            call.refuse("read by an operation that does not broadcast")
        readers += aside
    x = call.builder.unmixed(call.raw)
    if x.rank != len(call.sizes):
        call.refuse("to more dimensions")
    return x


def take(call: TorchCall) -> Placed | Constant:
    """STRIDED_SLICE of one dimension; a constant is sliced now."""
    constant = call.constant(call.first)
    if constant is not None:
        numbers = constant.tensor.transpose(0, int(call["dim"]))[call["start"] or 0 : call["end"] : int(call["step"])]
        return Constant(numbers.transpose(0, int(call["dim"])))
    x = call.builder.unmixed(call.raw)
    dim, size = int(call["dim"]) % x.rank, call.sizes
    if size == x.sizes:
        return x
    length = x.sizes[dim].number
    start = min(_from_front(call["start"] or 0, length), length)
    end = min(_from_front(length if call["end"] is None else call["end"], length), length)
    if x.sizes[dim].free:
        call.refuse("of the batch")
    return call.builder.cut(x, {x.axis(dim): (start, end, int(call["step"]))}, size)


def _from_front(index: int, length: int) -> int:
    return max(index + length, 0) if index < 0 else index


def select(call: TorchCall) -> Placed:
    """STRIDED_SLICE of one index, whose dimension torch drops and the value keeps."""
    x = call.builder.unmixed(call.raw)
    dim = int(call["dim"]) % x.rank
    return _dropped(_one(call.builder, x, dim, _from_front(int(call["index"]), x.sizes[dim].number)), dim)


def _one(builder: Builder, x: Placed, dim: int, index: int) -> Placed:
    return builder.cut(x, {x.axis(dim): (index, index + 1, 1)}, x.resized(dim, 1).sizes)


def _dropped(x: Placed, dim: int) -> Placed:
    """The value without a dimension of one, whose axis stays."""
    order = tuple(None if each is None or each == dim else each - (each > dim) for each in x.order)
    return replace(x, order=order, sizes=x.sizes[:dim] + x.sizes[dim + 1 :])


def split(call: TorchCall) -> list[Placed]:
    """SPLIT into equal parts; a STRIDED_SLICE each where they differ."""
    x = call.builder.unmixed(call.raw)
    dim = int(call["dim"]) % x.rank
    widths = [part.shape[dim] for part in call.node.meta["val"]]
    return _parts(call.builder, x, dim, [int(width) for width in widths])


def _parts(builder: Builder, x: Placed, dim: int, widths: Sequence[int]) -> list[Placed]:
    axis = x.axis(dim)
    if len(set(widths)) == 1 and len(widths) > 1:
        parts = [x.resized(dim, widths[0])] * len(widths)
        return builder.emit_all("SPLIT", (builder.scalar(axis), x.name), parts, num_splits=len(widths))
    ends = np.cumsum([0, *widths]).tolist()
    return [builder.cut(x, {axis: (begin, end, 1)}, x.resized(dim, end - begin).sizes) for begin, end in pairwise(ends)]


def unbind(call: TorchCall) -> list[Placed]:
    """The slices along a dimension, which torch drops."""
    x = call.builder.unmixed(call.raw)
    dim = int(call["dim"]) % x.rank
    return [_dropped(part, dim) for part in _parts(call.builder, x, dim, [1] * x.sizes[dim].number)]


def item(call: TorchCall) -> Placed:
    """One of several results."""
    source, index = call.node.args
    made = call.made.get(cast("torch.fx.Node", source))
    if not isinstance(made, list):
        call.refuse()
    return made[cast("int", index)]


def pad(call: TorchCall) -> Placed:
    """PAD with zeros, PADV2 with another number."""
    if call.arguments.get("mode", "constant") != "constant":
        call.refuse(f"with mode '{call['mode']}'")
    x, amounts = call.builder.unmixed(call.raw), list(call["pad"])
    sides = {x.rank - 1 - at: (amounts[2 * at], amounts[2 * at + 1]) for at in range(len(amounts) // 2)}
    if any(amount < 0 for amount in amounts):
        call.refuse("with negative amounts")
    if not any(amounts):
        return x
    if x.order == (0, 2, 1):
        # As convolutions see it: zeros then merge into their own padding.
        x = call.builder.laid(x, channels_last(3))
    axes = tuple((0, 0) if dim is None else sides.get(dim, (0, 0)) for dim in x.order)
    return padded(call.builder, x, axes, _filler(call, x))


def _filler(call: TorchCall, x: Placed) -> str:
    """The constant that is padded with; '' where it is zero."""
    value = call["value"] or 0
    if x.grid is None:
        return call.builder.constant(np.array([value], np.float32)) if value else ""
    dtype = call.node.meta["val"].dtype
    if dtype.is_floating_point:
        integer = int(x.grid.quantize(torch.tensor(float(value))))
        if abs(float(x.grid.dequantize(torch.tensor(integer))) - value) > 1e-6 * abs(value):
            call.refuse(f"with {value}, which is no point of the grid")
    else:
        integer = int(value) - signed_shift(dtype)
    if integer == x.grid.zero_point[0]:
        return ""
    return call.builder.constant(np.array([integer], np.dtype(f"int{x.grid.bits}")), x.grid)


def concatenate(call: TorchCall) -> Placed:
    """CONCATENATION of values on one grid."""
    builder, grid = call.builder, call.grid
    stored = [call.held(each) for each in call["tensors"]]
    if not call.integer:
        one = stored[0].grid if call.ending.activation == "NONE" else None
        grid = one if all(each.grid == one for each in stored) else None
    parts = [builder.unmixed(builder.real(each) if grid is None else builder.on_grid(each, grid)) for each in stored]
    order = next((part.order for part in parts if part.rank == 4 and part.order == channels_last(4)), parts[0].order)
    parts = [builder.laid(part, order) for part in parts]
    axis = parts[0].axis(int(call["dim"]))
    result = call.result(parts[0], order=order, grid=grid)
    return call.settle(builder.emit("CONCATENATION", [part.name for part in parts], result, axis=axis))


def quantize(call: TorchCall) -> Placed:
    """QUANTIZE of what no operation rounded itself."""
    target = rounding(call.node)
    activation = target.activation(None)
    if activation is None:
        call.refuse(f"to the integers {target.low}..{target.high}")
    placed = call.builder.on_grid(call.stored(call.first), target.grid)
    return placed if activation == "NONE" else call.builder.emit(activation, (placed.name,), placed)


def dequantize(call: TorchCall) -> Placed:
    """Nothing: who needs real numbers asks for them."""
    return call.raw


_BROADCASTS = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}
_RESHAPES = (
    *(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.unflatten.int),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default),
)
_SPLITS = (aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default)
TABLE: Table = {
    **dict.fromkeys(_RESHAPES, Rule(reshape, moves=True)),
    **dict.fromkeys(_SPLITS, Rule(split, moves=True)),
    **dict.fromkeys((aten.pad.default, aten.constant_pad_nd.default), Rule(pad, moves=True)),
    aten.permute.default: Rule(permute, moves=True),
    aten.transpose.int: Rule(transpose, moves=True),
    aten.expand.default: Rule(expand, moves=True),
    aten.slice.Tensor: Rule(take, moves=True),
    aten.select.int: Rule(select, moves=True),
    aten.unbind.int: Rule(unbind, moves=True),
    operator.getitem: Rule(item, moves=True),
    aten.cat.default: Rule(concatenate, _BOTH),
    pairs.quantize_per_tensor.default: Rule(quantize, moves=True),
    pairs.dequantize_per_tensor.default: Rule(dequantize, moves=True),
}
