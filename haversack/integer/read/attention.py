"""Attention: norms of rows, products of two values, and the attention that is made of them, all on real numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from haversack.integer.read.builder import Builder
from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.elementwise import aligned, beside
from haversack.integer.read.layers import connected
from haversack.integer.read.placed import Constant, Placed, Size

aten = torch.ops.aten
_FAR = 1e9
"""What is taken from the score of what is not to be seen: exp of that is zero."""


def layer_norm(call: TorchCall) -> Placed:
    """What is off the mean over the last dimensions, over the root of its mean square (Ba et al. 2016)."""
    builder, x = call.builder, call.builder.unmixed(call.x)
    dims = range(x.rank - len(call["normalized_shape"]), x.rank)
    centred = builder.emit("SUB", (x.name, _mean(builder, x, dims).name), x)
    square = _mean(builder, builder.emit("MUL", (centred.name, centred.name), x), dims)
    spread = builder.emit("ADD", (square.name, _number(builder, call["eps"])), square)
    result = builder.emit("MUL", (centred.name, builder.emit("RSQRT", (spread.name,), square).name), x)
    for kind, name in (("MUL", "weight"), ("ADD", "bias")):
        if call[name] is not None:
            result = builder.emit(kind, (result.name, beside(call, result, call.constant(call[name]))), x)
    return call.settle(result)


def _mean(builder: Builder, x: Placed, dims: range) -> Placed:
    """The mean over these dimensions, which stay."""
    one = x
    for dim in dims:
        one = one.resized(dim, 1)
    axes = builder.integers(*sorted(x.axis(dim) for dim in dims))
    return builder.emit("MEAN", (x.name, axes), one, keep_dims=True)


def _number(builder: Builder, number: float) -> str:
    return builder.constant(np.array([number], np.float32))


def attention(call: TorchCall) -> Placed:
    """What the queries ask of the keys, as shares of the values (Vaswani et al. 2017)."""
    if call["dropout_p"] or call.arguments.get("enable_gqa"):
        call.refuse("with dropout or groups of queries")
    builder = call.builder
    query, key, value = (_in_order(builder, call.value(call[name])) for name in ("query", "key", "value"))
    scale = call["scale"] or 1 / math.sqrt(query.sizes[-1].number)
    query = builder.emit("MUL", (query.name, _number(builder, scale)), query)
    scores = _product(builder, query, key, turned=True)
    for hidden in _hidden(call, scores):
        scores = builder.emit("ADD", (scores.name, hidden), scores)
    shares = builder.emit("SOFTMAX", (scores.name,), scores, beta=1.0)
    return call.settle(_product(builder, shares, value))


def _hidden(call: TorchCall, scores: Placed) -> tuple[str, ...]:
    """What is added to the scores, which makes those of what is not to be seen very small."""
    argument, sizes = call["attn_mask"], [size.number for size in scores.sizes[-2:]]
    if call["is_causal"]:
        seen = torch.ones(sizes, dtype=torch.bool).tril()
        return (beside(call, scores, Constant((seen.float() - 1) * _FAR)),)
    if argument is None:
        return ()
    shown = argument.meta["val"].dtype == torch.bool
    constant = call.constant(argument)
    if constant is not None:
        numbers = constant.real.float()
        return (beside(call, scores, Constant((numbers - 1) * _FAR if shown else numbers)),)
    mask = call.value(argument)
    hidden = _far_unless(call.builder, mask) if shown else mask
    return (aligned(call, hidden, scores.order, scores.rank).name,)


def _far_unless(builder: Builder, shown: Placed) -> Placed:
    """Zero where a mask of ones and zeros has a one, and far below that elsewhere."""
    less = builder.once("SUB", shown, shown, _number(builder, 1.0))
    return builder.once("MUL", less, shown, _number(builder, _FAR))


def _in_order(builder: Builder, placed: Placed) -> Placed:
    return builder.laid(placed, tuple(range(placed.rank)))


def _product(builder: Builder, left: Placed, right: Placed, *, turned: bool = False) -> Placed:
    """BATCH_MATMUL of values in torch's order, the right one turned first where that is said."""
    sizes = (*left.sizes[:-1], right.sizes[-2 if turned else -1])
    batch = [max(one, other) for one, other in zip(left.sizes[:-2], right.sizes[:-2], strict=True)]
    result = replace(left, sizes=(*batch, *sizes[-2:]))
    return builder.emit("BATCH_MATMUL", (left.name, right.name), result, adj_y=turned)


def product(call: TorchCall) -> Placed:
    """FULLY_CONNECTED by a constant that all rows are multiplied by, else BATCH_MATMUL."""
    left, right = (call.constant(call[name]) for name in _sides(call))
    if left is None and right is not None and right.tensor.dim() == 2:
        return connected(call, call.value(call[_sides(call)[0]]), right.permuted(1, 0), None)
    one, other = (_side(call, name) for name in _sides(call))
    if one.rank != other.rank or one.rank < 2:
        call.refuse("of values of different ranks")
    return call.settle(_product(call.builder, one, other))


def _sides(call: TorchCall) -> tuple[str, str]:
    return ("self", "mat2") if "mat2" in call.arguments else ("self", "other")


def _side(call: TorchCall, name: str) -> Placed:
    constant = call.constant(call[name])
    if constant is None:
        return _in_order(call.builder, call.value(call[name]))
    sizes = tuple(Size(size) for size in constant.tensor.shape)
    return Placed(call.builder.stored_real(constant), tuple(range(len(sizes))), sizes)


TABLE: Table = {
    aten.layer_norm.default: Rule(layer_norm),
    aten.scaled_dot_product_attention.default: Rule(attention),
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), Rule(product)),
}
