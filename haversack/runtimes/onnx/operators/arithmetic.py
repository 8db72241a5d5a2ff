"""Arithmetic: functions of two tensors, or of a tensor and a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from haversack.runtimes.onnx.call import Call, Table


def operands(call: Call, *, dtype: torch.dtype | None = None) -> tuple[str, str]:
    """Both operands in one type: the result's, or `dtype`."""
    return _operand(call, call["self"], dtype or call.dtype), _operand(call, call["other"], dtype or call.dtype)


def _operand(call: Call, argument: Any, dtype: torch.dtype) -> str:  # noqa: ANN401
    if isinstance(argument, bool | int | float):
        return call.graph.number(argument, dtype)
    return call.graph.cast(call.value(argument), dtype)


def two(operation: str) -> Callable[[Call], str]:
    """A function that writes one ONNX operation of two inputs."""
    return lambda call: call.graph.node(operation, *operands(call))


def sum_of_two(call: Call) -> str:
    """The sum self + alpha * other, or the difference."""
    left, right = operands(call)
    if call["alpha"] != 1:
        right = call.graph.node("Mul", right, call.graph.number(call["alpha"], call.dtype))
    return call.graph.node("Sub" if "sub" in str(call.operation.target) else "Add", left, right)


def reverse_subtract(call: Call) -> str:
    """Other - self."""
    if call["alpha"] != 1:
        raise call.unsupported("with alpha")
    left, right = operands(call)
    return call.graph.node("Sub", right, left)


def divide(call: Call) -> str:
    """The quotient self / other; rounding modes are not written."""
    if call.arguments.get("rounding_mode") is not None:
        raise call.unsupported("with a rounding mode")
    return call.graph.node("Div", *operands(call))


def power(call: Call) -> str:
    """The power self ** exponent; a square is a product, which runtimes compute faster."""
    if call["exponent"] == 2:
        return call.graph.node("Mul", call.x, call.x)
    return call.graph.node("Pow", call.x, call.value(call["exponent"]))


def compare(operation: str) -> Callable[[Call], str]:
    """A function that writes a comparison, in the first operand's type."""

    def written(call: Call) -> str:
        return call.graph.node(operation, *operands(call, dtype=call.graph.types[call.x]), dtype=torch.bool)

    return written


def where(call: Call) -> str:
    """The elements of self where the condition holds, else of other."""
    return call.graph.node("Where", call.value(call["condition"]), *operands(call), dtype=call.dtype)


def masked_fill(call: Call) -> str:
    """`value` where the mask holds."""
    filling = _operand(call, call["value"], call.dtype)
    return call.graph.node("Where", call.value(call["mask"]), filling, call.x, dtype=call.dtype)


def to_dtype(call: Call) -> str:
    """The same numbers in the result's type."""
    return call.graph.cast(call.x, call.dtype)


TABLE: Table = {
    "aten._to_copy": to_dtype,
    "aten.add": sum_of_two,
    "aten.div": divide,
    "aten.eq": compare("Equal"),
    "aten.ge": compare("GreaterOrEqual"),
    "aten.gt": compare("Greater"),
    "aten.le": compare("LessOrEqual"),
    "aten.logical_and": two("And"),
    "aten.logical_or": two("Or"),
    "aten.lt": compare("Less"),
    "aten.masked_fill": masked_fill,
    "aten.max.other": two("Max"),
    "aten.maximum": two("Max"),
    "aten.min.other": two("Min"),
    "aten.minimum": two("Min"),
    "aten.mul": two("Mul"),
    "aten.multiply": two("Mul"),
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.rsub": reverse_subtract,
    "aten.sub": sum_of_two,
    "aten.to": to_dtype,
    "aten.true_divide": divide,
    "aten.where.ScalarOther": where,
    "aten.where.self": where,
}
