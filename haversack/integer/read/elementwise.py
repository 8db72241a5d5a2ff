"""Elementwise: sums, products and activations; they keep the order in which values lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from haversack.grid import Grid
from haversack.integer import KINDS
from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.ending import bounds_of, real_activation
from haversack.integer.read.placed import Constant, Order, Placed

aten = torch.ops.aten
_BOTH = (8, 16)


def difference_from(call: TorchCall) -> Placed:
    """SUB of a value from a number."""
    if call["alpha"] != 1:
        call.refuse("with a factor")
    x = call.x
    return call.finish("SUB", (call.number(torch.tensor([float(call["other"])])), x.name), call.result(x))


def quotient(call: TorchCall) -> Placed:
    """MUL by one over a constant, else DIV of real numbers."""
    divisor = call.constant(call["other"])
    if divisor is None:
        return _real_quotient(call)
    if not bool(divisor.real.all()):
        call.refuse("by zero")
    x = call.x
    result = call.result(x)
    if result.shape != x.shape:
        call.refuse("by a constant larger than the value")
    return call.finish("MUL", (x.name, beside(call, x, Constant(1 / divisor.real))), result)


def _real_quotient(call: TorchCall) -> Placed:
    if call.constant(call["self"]) is not None:
        call.refuse("of a constant")
    sides = (call.builder.real(call.stored(call[name])) for name in ("self", "other"))
    placed = _of_two(replace(call, integer=False, ending=replace(call.ending, grid=None)), "DIV", *sides)
    return placed if call.grid is None else call.builder.on_grid(placed, call.grid)


def binary(kind: str) -> Callable[[TorchCall], Placed]:
    """ADD, SUB or MUL of two values, or of a value and a constant."""

    def write(call: TorchCall) -> Placed:
        left, right = call["self"], call["other"]
        if call.arguments.get("alpha", 1) != 1:
            call.refuse("with a factor")
        known = [call.constant(each) for each in (left, right)]
        if known[0] is None and known[1] is None:
            return _of_two(call, kind, call.value(left), call.value(right))
        if known[1] is not None:
            like = call.value(left)
            names = like.name, beside(call, like, known[1])
        else:
            like = call.value(right)
            names = beside(call, like, known[0]), like.name
        if len(call.sizes) != like.rank or call.result(like).shape != like.shape:
            call.refuse("with a constant larger than the value")
        return call.finish(kind, names, call.result(like))

    return write


def _of_two(call: TorchCall, kind: str, left: Placed, right: Placed) -> Placed:
    builder, rank = call.builder, len(call.sizes)
    if left.columns != right.columns or left.sizes != right.sizes:
        left, right = builder.unmixed(left), builder.unmixed(right)
    lead = max(left, right, key=lambda each: (each.rank, len(each.long())))
    order = lead.order
    both = [aligned(call, each, order, rank) for each in (left, right)]
    if np.broadcast_shapes(*(each.shape for each in both)) != call.result(lead).shape:
        call.refuse("of values that are both expanded")
    return call.finish(kind, [each.name for each in both], call.result(lead, order=order))


def aligned(call: TorchCall, placed: Placed, order: Order, rank: int) -> Placed:
    """The value with its dimensions where those of `order` stand, which counts `rank` of them."""
    if placed.order == order:
        return placed
    missing = rank - placed.rank
    wanted = tuple(None if dim is None or dim < missing else dim - missing for dim in order)
    return call.builder.laid(placed, wanted)


def beside(call: TorchCall, like: Placed, constant: Constant | None) -> str:
    """A constant laid like the value that it is added to."""
    numbers = torch.zeros(()) if constant is None else constant.real
    numbers = numbers.view((1,) * (like.rank - numbers.dim()) + tuple(numbers.shape))
    if like.columns is not None and numbers.shape[-1] > 1:
        numbers = numbers[..., like.columns.indices()]
    numbers = numbers.permute([dim for dim in like.order if dim is not None])
    for axis, dim in enumerate(like.order):
        numbers = numbers.unsqueeze(axis) if dim is None else numbers
    return call.number(_short(numbers))


def _short(numbers: Tensor) -> Tensor:
    """Without leading axes of one: broadcasting puts them back."""
    first = next((axis for axis, size in enumerate(numbers.shape) if size > 1), numbers.dim() - 1)
    return numbers.reshape(numbers.shape[max(first, 0) :] or (1,))


def unary(kind: str, **options: object) -> Callable[[TorchCall], Placed]:
    """An operation that may write any grid."""

    def write(call: TorchCall) -> Placed:
        x = call.x
        return call.settle(call.builder.emit(kind, (x.name,), replace(x, grid=call.grid), **options))

    return write


def gelu(call: TorchCall) -> Placed:
    """GELU, of real numbers."""
    return unary("GELU", approximate=call["approximate"] == "tanh")(call)


def leaky_relu(call: TorchCall) -> Placed:
    """LEAKY_RELU."""
    return unary("LEAKY_RELU", alpha=float(call["negative_slope"]))(call)


def fixed(kind: str) -> Callable[[TorchCall], Placed]:
    """An operation whose results lie on the grid that TFLite's specification gives it."""

    def write(call: TorchCall) -> Placed:
        return call.settle(_on_fixed(call, kind, call.x))

    return write


def _on_fixed(call: TorchCall, kind: str, x: Placed, **options: object) -> Placed:
    grid = None if x.grid is None else KINDS[kind].fixed[f"int{x.grid.bits}"]
    return call.builder.emit(kind, (x.name,), replace(x, grid=grid), **options)


def softmax(call: TorchCall) -> Placed:
    """SOFTMAX over the last axis."""
    x = call.builder.unmixed(call.x)
    dim = int(call["dim"]) % x.rank
    if [each for each in x.order if each is not None][-1] != dim or x.order[-1] is None:
        x = call.builder.laid(x, (*(each for each in x.order if each is not None and each != dim), dim))
    return call.settle(_on_fixed(call, "SOFTMAX", x, beta=1.0))


def silu(call: TorchCall) -> Placed:
    """The value times its sigmoid."""
    x = call.x
    gate = _on_fixed(call, "LOGISTIC", x)
    return call.finish("MUL", (x.name, gate.name), call.result(x))


def hardsigmoid(call: TorchCall) -> Placed:
    """The value and 3, between 0 and 6, divided by 6 (Howard et al. 2019)."""
    x = call.x
    grid = Grid(8, True, (6 / 255,), (-128,)) if call.integer else None
    three = call.number(torch.tensor([3.0]))
    # On integers the grid's own ends are 0 and 6.
    activation = "NONE" if call.integer else "RELU6"
    shifted = call.builder.emit("ADD", (x.name, three), replace(x, grid=grid), activation=activation)
    result = replace(x, grid=KINDS["LOGISTIC"].fixed["int8"] if call.integer else None)
    sixth = call.number(torch.tensor([1 / 6]))
    return call.settle(call.builder.emit("MUL", (shifted.name, sixth), result))


def clamp(call: TorchCall) -> Placed:
    """RELU or RELU6, else MAXIMUM and MINIMUM; on integers mostly nothing but the rounding."""
    bounds = bounds_of(call.node)
    if bounds is None:
        call.refuse("with bounds that the network computes")
    if call.integer:
        return _clamped_integers(call)
    x = call.x
    kind = real_activation(bounds)
    if kind is not None:
        return call.settle(call.builder.emit(kind, (x.name,), x))
    for kind, bound in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True):
        if abs(bound) != float("inf"):
            x = call.builder.emit(kind, (x.name, call.number(torch.tensor([bound]))), x)
    return call.settle(x)


def _clamped_integers(call: TorchCall) -> Placed:
    x, grid, activation = call.raw, call.grid, call.ending.activation
    if activation == "NONE" and grid is not None:
        return call.builder.on_grid(x, grid)
    # Only RELU is known to move to another grid in all kernels.
    if activation == "RELU6" and grid is not None:
        x = call.builder.on_grid(x, grid)
    return call.builder.emit(activation, (x.name,), replace(x, grid=grid))


_CLAMPS = (
    *(aten.relu.default, aten.relu6.default, aten.hardtanh.default),
    *(aten.clamp.default, aten.clamp_min.default),
)
TABLE: Table = {
    aten.add.Tensor: Rule(binary("ADD"), _BOTH),
    aten.sub.Tensor: Rule(binary("SUB"), _BOTH),
    aten.mul.Tensor: Rule(binary("MUL"), _BOTH),
    aten.rsub.Scalar: Rule(difference_from, _BOTH),
    aten.div.Tensor: Rule(quotient, _BOTH),
    aten.hardswish.default: Rule(unary("HARD_SWISH"), (8,)),
    aten.gelu.default: Rule(gelu),
    aten.rsqrt.default: Rule(unary("RSQRT")),
    aten.leaky_relu.default: Rule(leaky_relu, _BOTH),
    aten.sigmoid.default: Rule(fixed("LOGISTIC"), _BOTH),
    aten.tanh.default: Rule(fixed("TANH"), _BOTH),
    aten.softmax.int: Rule(softmax, _BOTH),
    aten.silu.default: Rule(silu, _BOTH),
    aten.hardsigmoid.default: Rule(hardsigmoid, (8,)),
    **dict.fromkeys(_CLAMPS, Rule(clamp, _BOTH)),
}
