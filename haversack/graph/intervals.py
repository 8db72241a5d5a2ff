"""Intervals: two numbers between which a value lies, whatever the input is (Moore 1966).

They are kept element by element, so that zeros padded around a map count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from haversack.graph.channel_book import operation_name
from haversack.graph.trace import arguments_of

# A float32 network holds no larger number, so nothing is unbounded beyond it.
LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Interval:
    """Two tensors of one shape: the value lies between them, element by element. Real numbers are float64."""

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Call:
    """An operation of the exported graph with its arguments, of which some are intervals."""

    node: fx.Node
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def name(self) -> str:
        """ATen's name of the operation."""
        return operation_name(self.node)

    def argument(self, name: str) -> Any:  # noqa: ANN401 - whatever the operation takes
        """The argument that the operation's schema calls `name`, its default where it is left out."""
        names = list(arguments_of(self.node))
        place = names.index(name)
        if place < len(self.args):
            return self.args[place]
        return self.kwargs.get(name, arguments_of(self.node)[name])

    def at(self, pick: Callable[[Interval], Tensor]) -> Any:  # noqa: ANN401 - whatever the operation gives
        """The result on one tensor out of each interval."""
        args, kwargs = tree_map(
            lambda each: pick(each) if isinstance(each, Interval) else each, (self.args, self.kwargs)
        )
        return cast("Callable[..., Any]", self.node.target)(*args, **kwargs)

    def intervals(self) -> list[Interval]:
        """The arguments that are intervals."""
        return [each for each in tree_flatten((self.args, self.kwargs))[0] if isinstance(each, Interval)]


def unbounded(node: fx.Node) -> Any:  # noqa: ANN401
    """Intervals without bounds, shaped like the node's result for one sample."""
    return tree_map_only(Tensor, lambda value: _everything(_shape(value), value.dtype), node.meta["val"])


def _shape(value: Tensor) -> tuple[int, ...]:
    """The tensor's shape for one sample."""
    return tuple(
        size if isinstance(size, int) else int(size.node.expr.xreplace(dict.fromkeys(size.node.expr.free_symbols, 1)))
        for size in value.shape
    )


def _everything(shape: tuple[int, ...], dtype: torch.dtype) -> Interval:
    if dtype.is_floating_point:
        high = torch.full(shape, LARGEST, dtype=torch.float64)
        return Interval(-high, high)
    ends = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    return Interval(*(torch.full(shape, end, dtype=dtype) for end in ends))


def bounded(low: Tensor, high: Tensor) -> Interval:
    """The interval, kept within float32; what is not a number may be anything."""
    return Interval(
        low.nan_to_num(nan=-LARGEST).clamp(-LARGEST, LARGEST), high.nan_to_num(nan=LARGEST).clamp(-LARGEST, LARGEST)
    )
