"""Masks: what is asked of whole numbers that are given to the network, and what is done by the answer.

An answer is a real number: 1 where it holds, and 0 where it does not. Whole numbers are real ones, too, once they are
moved or asked; they are exact up to 2^24.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import fx

from haversack.integer.read.call import Rule, Table, TorchCall
from haversack.integer.read.elementwise import aligned, beside
from haversack.integer.read.placed import Constant, Placed

aten = torch.ops.aten
_LOWEST = float(np.finfo(np.float32).min)
"""What stands for minus infinity: exp of it is zero, and it is a number where it is multiplied by zero."""


def as_real(call: TorchCall) -> Placed:
    """The whole numbers that a table holds or that are given to the network, an answer, or an input's bytes, as real.

    Asked for as an answer, whole numbers are whether they are other than zero.
    """
    dtype = call["dtype"]
    if dtype == torch.bool and _is_whole(call.first):
        return _other_than(call, _whole(call), 0.0)
    if dtype not in (torch.float32, torch.bool) or (dtype == torch.bool and not _is_answer(call.first)):
        call.refuse(f"to {dtype}")
    if _is_whole(call.first) and call.is_counted(call.first):
        return _whole(call)
    if call.raw.grid is None and not (_is_whole(call.first) or _is_answer(call.first)):
        call.refuse(f"to {dtype}")
    return call.builder.real(call.raw)


def _is_whole(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.meta["val"].dtype in (torch.int64, torch.int32)


def _is_answer(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.meta["val"].dtype == torch.bool


def _whole(call: TorchCall) -> Placed:
    """The first argument, whole numbers, as real ones."""
    if not _is_whole(call.first):
        call.refuse("of what are no whole numbers")
    return call.real_counted(call.first)


def _number(call: TorchCall, number: float) -> str:
    return call.builder.constant(np.array([number], np.float32))


def above(shift: float) -> Callable[[TorchCall], Placed]:
    """Whether whole numbers are as large as a constant and `shift` more."""
    return lambda call: _between(call, _asked(call) + shift - 1, 1.0)


def below(shift: float) -> Callable[[TorchCall], Placed]:
    """Whether whole numbers are as small as a constant less `shift`."""
    return lambda call: _between(call, _asked(call) - shift + 1, -1.0)


def _asked(call: TorchCall) -> float:
    """The whole number that is asked for."""
    if call["other"] != int(call["other"]):
        call.refuse(f"with {call['other']}, which is no whole number")
    return float(call["other"])


def _between(call: TorchCall, start: float, sign: float) -> Placed:
    """How far the numbers are behind `start`, from 0 to 1."""
    x, builder = _whole(call), call.builder
    sides = (x.name, _number(call, start)) if sign > 0 else (_number(call, start), x.name)
    return builder.emit("MINIMUM", (builder.emit("SUB", sides, x, activation="RELU").name, _number(call, 1.0)), x)


def other_than(call: TorchCall) -> Placed:
    """Whether whole numbers are other than a constant."""
    return _other_than(call, _whole(call), _asked(call))


def _other_than(call: TorchCall, x: Placed, number: float) -> Placed:
    off = call.builder.emit("SUB", (x.name, _number(call, number)), x)
    square = call.builder.emit("MUL", (off.name, off.name), x)
    return call.builder.emit("MINIMUM", (square.name, _number(call, 1.0)), x)


def equal_to(call: TorchCall) -> Placed:
    """Whether whole numbers are a constant."""
    return _not(call, other_than(call))


def negated(call: TorchCall) -> Placed:
    """Whether an answer is that it does not hold."""
    if not _is_answer(call.first):
        call.refuse("of what is no answer")
    return _not(call, call.raw)


def _not(call: TorchCall, answer: Placed) -> Placed:
    return call.builder.emit("SUB", (_number(call, 1.0), answer.name), answer)


def masked_fill(call: TorchCall) -> Placed:
    """What is left of the values where a mask does not hold, and a constant where it does."""
    number = max(float(call["value"]), _LOWEST) if isinstance(call["value"], int | float) else math.nan
    if not math.isfinite(number):
        call.refuse(f"with {call['value']}")
    builder, x = call.builder, call.builder.unmixed(call.x)
    if call.result(x).shape != x.shape:
        call.refuse("of what is expanded")
    constant = call.constant(call["mask"])
    if constant is not None:
        mask = constant.tensor.float()
        kept = builder.emit("MUL", (x.name, beside(call, x, Constant(1 - mask))), x)
        return call.settle(builder.emit("ADD", (kept.name, beside(call, x, Constant(mask * number))), x))
    answer = call.value(call["mask"])
    there = aligned(call, _not(call, answer), x.order, x.rank)
    filler = builder.emit("MUL", (answer.name, _number(call, number)), answer)
    kept = builder.emit("MUL", (x.name, there.name), x)
    return call.settle(builder.emit("ADD", (kept.name, aligned(call, filler, x.order, x.rank).name), x))


TABLE: Table = {
    aten.to.dtype: Rule(as_real, moves=True),
    aten.gt.Scalar: Rule(above(1)),
    aten.ge.Scalar: Rule(above(0)),
    aten.lt.Scalar: Rule(below(1)),
    aten.le.Scalar: Rule(below(0)),
    aten.ne.Scalar: Rule(other_than),
    aten.eq.Scalar: Rule(equal_to),
    **dict.fromkeys((aten.logical_not.default, aten.bitwise_not.default), Rule(negated)),
    aten.masked_fill.Scalar: Rule(masked_fill),
}
