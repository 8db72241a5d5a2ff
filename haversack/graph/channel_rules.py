"""One rule for each operation of the exported graph: what it does to channels."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor

from haversack.graph.channel_book import Operation, Value, pointwise, sizes, unknown
from haversack.graph.channel_products import PRODUCT_RULES
from haversack.graph.channel_recurrent import RECURRENT_RULES
from haversack.graph.channel_shapes import POOL_RULES, SHAPE_RULES


def follow(operation: Operation) -> Value:
    """The atoms of the operation's result; an operation that nobody knows pins all it touches."""
    rule = _RULES.get(operation.name)
    if rule is None and torch.Tag.pointwise in getattr(operation.node.target, "tags", ()):
        rule = pointwise
    if rule is None and (space := re.search(r"(?:pool|upsample).*([123])d", operation.name)):
        rule = POOL_RULES[int(space[1])]
    return _checked(operation, rule or unknown)


def _checked(operation: Operation, rule: Callable[[Operation], Value]) -> Value:
    """What the rule says; an operation used in a way that its rule was not written for counts as unknown."""
    try:
        value = rule(operation)
    except (IndexError, KeyError, TypeError, ValueError):
        return unknown(operation)
    result = operation.node.meta["val"]
    if isinstance(value, tuple) and isinstance(result, Tensor):
        shape = sizes(operation.node)
        fits = len(value) == len(shape) and all(
            atoms is None or len(atoms) == size for atoms, size in zip(value, shape, strict=True)
        )
        return value if fits else unknown(operation)
    return value


# Element by element, but not tagged so by torch.
_ACTIVATIONS = ("relu6", "hardtanh", "hardswish", "silu", "gelu", "celu", "selu", "rrelu")
_RULES: dict[str, Callable[[Operation], Value]] = {
    **PRODUCT_RULES,
    **SHAPE_RULES,
    **RECURRENT_RULES,
    **dict.fromkeys(_ACTIVATIONS, pointwise),
}
