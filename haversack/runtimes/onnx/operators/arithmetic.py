"""Arithmetic: functions of two tensors, or of a tensor and a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from haversack.runtimes.onnx.call import Call, Table


def operands(call: Call, *, dtype: torch.dtype | None = None) -> tuple[str, str]:
    """Both operands in one type: the result's, or `dtype`."""
    return operand(call, call["self"], dtype), operand(call, call["other"], dtype)


def operand(call: Call, argument: Any, dtype: torch.dtype | None = None) -> str:  # noqa: ANN401
    """A tensor or a number in the result's type, or in `dtype`."""
    dtype = dtype or call.dtype
    return call.graph.cast(call.value(argument, dtype), dtype)


def two(operation: str) -> Callable[[Call], str]:
    """A function that writes one ONNX operation of two inputs."""
    return lambda call: call.graph.node(operation, *operands(call))


def sum_of_two(call: Call) -> str:
    """The sum self + alpha * other, or the difference; of truth values, whether one holds."""
    left, right = operands(call)
    if call.dtype == torch.bool:
        return call.graph.node("Or", left, right)
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
    """The quotient self / other, rounded towards zero or down where torch was told so."""
    return _quotient(call, call.arguments.get("rounding_mode"))


def _quotient(call: Call, rounding: str | None) -> str:
    graph, (left, right) = call.graph, operands(call)
    if rounding is not None and not call.dtype.is_floating_point:
        # ONNX rounds the quotient of integers towards zero; its remainder has the divisor's sign.
        rest = graph.node("Mod", left, right) if rounding == "floor" else ""
        return graph.node("Div", graph.node("Sub", left, rest) if rest else left, right)
    quotient = graph.node("Div", left, right)
    if rounding == "floor":
        return graph.node("Floor", quotient)
    return quotient if rounding is None else truncated(call, quotient)


def truncated(call: Call, x: str) -> str:
    """`x` rounded towards zero."""
    graph = call.graph
    return graph.node("Mul", graph.node("Sign", x), graph.node("Floor", graph.node("Abs", x)))


def remainder(call: Call) -> str:
    """What is left of self when the quotient is rounded down; it has the sign of other."""
    graph, (left, right) = call.graph, operands(call)
    if not call.dtype.is_floating_point:
        return graph.node("Mod", left, right)
    return graph.node("Sub", left, graph.node("Mul", graph.node("Floor", graph.node("Div", left, right)), right))


def power(call: Call) -> str:
    """The power self ** exponent; a square is a product, which runtimes compute faster."""
    base = operand(call, call["self"])
    if isinstance(call["exponent"], int | float) and call["exponent"] == 2:
        return call.graph.node("Mul", base, base)
    return call.graph.node("Pow", base, operand(call, call["exponent"]))


def compare(operation: str) -> Callable[[Call], str]:
    """A function that writes a comparison, in the type that holds both operands."""

    def written(call: Call) -> str:
        dtype = call.graph.stored_type(_common(call))
        return call.graph.node(operation, *operands(call, dtype=dtype), dtype=torch.bool)

    return written


def unequal(call: Call) -> str:
    """Whether the operands differ."""
    return call.graph.node("Not", compare("Equal")(call))


def _common(call: Call) -> torch.dtype:
    """The type that torch compares in."""
    values = (each.meta["val"] if isinstance(each, fx.Node) else each for each in (call["self"], call["other"]))
    return torch.result_type(*values)


def logical(operation: str) -> Callable[[Call], str]:
    """A function that writes And, Or or Xor of whether the operands are other than zero."""
    return lambda call: call.graph.node(operation, *operands(call, dtype=torch.bool))


def bitwise(operation: str) -> Callable[[Call], str]:
    """A function that writes And, Or or Xor: of truth values, or bit by bit."""
    return lambda call: call.graph.node(
        operation if call.dtype == torch.bool else f"Bitwise{operation}", *operands(call)
    )


def invert(call: Call) -> str:
    """Truth values or bits turned over."""
    return call.graph.node("Not" if call.dtype == torch.bool else "BitwiseNot", call.x)


def product(call: Call) -> str:
    """The product; of truth values, whether both hold."""
    return call.graph.node("And" if call.dtype == torch.bool else "Mul", *operands(call))


def where(call: Call) -> str:
    """The elements of self where the condition holds, else of other."""
    return chosen(call, call.value(call["condition"]), *operands(call))


def masked_fill(call: Call) -> str:
    """`value` where the mask holds."""
    return chosen(call, call.value(call["mask"]), operand(call, call["value"]), call.x)


def chosen(call: Call, condition: str, one: str, other: str) -> str:
    """`one` where the condition holds, else `other`; truth values take the detour that ONNX Runtime needs."""
    graph = call.graph
    if call.dtype != torch.bool:
        return graph.node("Where", condition, one, other, dtype=call.dtype)
    numbers = (graph.cast(each, torch.uint8) for each in (one, other))
    return graph.cast(graph.node("Where", condition, *numbers, dtype=torch.uint8), torch.bool)


def scaled_product(operation: str) -> Callable[[Call], str]:
    """A function that writes self + value * (tensor1 * tensor2), or with a quotient in the product's place."""

    def written(call: Call) -> str:
        left, right = (operand(call, call[name]) for name in ("tensor1", "tensor2"))
        product = call.graph.node(operation, left, right)
        if call["value"] != 1:
            product = call.graph.node("Mul", product, call.graph.number(call["value"], call.dtype))
        return call.graph.node("Add", operand(call, call["self"]), product)

    return written


def between(call: Call) -> str:
    """The point between self and end that `weight` names."""
    graph, start = call.graph, call.x
    way = graph.node("Sub", call.value(call["end"]), start)
    return graph.node("Add", start, graph.node("Mul", way, call.value(call["weight"])))


def outer(call: Call) -> str:
    """Each number of one row times each of another."""
    column = call.graph.node("Unsqueeze", operand(call, call["self"]), call.graph.integers([1]))
    return call.graph.node("Mul", column, operand(call, call["vec2"]))


def to_dtype(call: Call) -> str:
    """The same numbers in the result's type."""
    return call.graph.cast(call.x, call.dtype)


TABLE: Table = {
    "aten.__and__": bitwise("And"),
    "aten.__or__": bitwise("Or"),
    "aten.__xor__": bitwise("Xor"),
    "aten._to_copy": to_dtype,
    "aten.add": sum_of_two,
    "aten.addcdiv": scaled_product("Div"),
    "aten.addcmul": scaled_product("Mul"),
    "aten.bitwise_and": bitwise("And"),
    "aten.bitwise_not": invert,
    "aten.bitwise_or": bitwise("Or"),
    "aten.bitwise_xor": bitwise("Xor"),
    "aten.div": divide,
    "aten.eq": compare("Equal"),
    "aten.floor_divide": lambda call: _quotient(call, "floor"),
    "aten.fmod": lambda call: call.graph.node("Mod", *operands(call), fmod=1),
    "aten.ge": compare("GreaterOrEqual"),
    "aten.gt": compare("Greater"),
    "aten.le": compare("LessOrEqual"),
    "aten.lerp": between,
    "aten.logical_and": logical("And"),
    "aten.logical_or": logical("Or"),
    "aten.logical_xor": logical("Xor"),
    "aten.lt": compare("Less"),
    "aten.masked_fill": masked_fill,
    "aten.max.other": two("Max"),
    "aten.maximum": two("Max"),
    "aten.min.other": two("Min"),
    "aten.minimum": two("Min"),
    "aten.mul": product,
    "aten.multiply": product,
    "aten.ne": unequal,
    "aten.outer": outer,
    "aten.pow.Scalar": power,
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.remainder": remainder,
    "aten.rsub": reverse_subtract,
    "aten.sub": sum_of_two,
    "aten.to": to_dtype,
    "aten.true_divide": divide,
    "aten.type_as": to_dtype,
    "aten.where.Scalar": where,
    "aten.where.ScalarOther": where,
    "aten.where.ScalarSelf": where,
    "aten.where.self": where,
}
