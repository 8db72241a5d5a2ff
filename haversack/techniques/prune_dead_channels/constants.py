"""Constants: what a network's layers see of each of their input channels, whatever the input is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_flatten

from haversack.graph.trace import Trace
from haversack.techniques.prune_dead_channels.intervals import Interval, IntervalCall, enclose, unbounded
from haversack.techniques.prune_dead_channels.reads import channel_axis


@dataclass(frozen=True)
class Seen:
    """What a layer sees of its input channels: proven for every input, float64.

    A value of channel c at place p lies within `spread[c]` of `maps[c, p]`, and within `largest[c]` of zero.
    """

    maps: Tensor
    spread: Tensor
    largest: Tensor


def seen(trace: Trace, layers: Collection[fx.Node], input_limit: float) -> Mapping[fx.Node, Seen]:
    """What each of the layers (convolutions and linear ones) sees while no input is larger than `input_limit`.

    Empty where the network writes into tensors in a way that cannot be followed.
    """
    run = _Enclosing(trace, layers, input_limit)
    inputs = [run.start(node) for node in trace.graph.find_nodes(op="placeholder")]
    try:
        with torch.no_grad():
            run.run(*inputs, enable_io_processing=False)
    except (ArithmeticError, RuntimeError):
        return {}
    return run.seen


class _Enclosing(fx.Interpreter):
    """Runs a graph on intervals and keeps what some layers see."""

    def __init__(self, trace: Trace, layers: Collection[fx.Node], input_limit: float) -> None:
        super().__init__(trace.structure.network)
        self.trace, self.layers, self.input_limit = trace, set(layers), input_limit
        self.seen: dict[fx.Node, Seen] = {}

    def start(self, node: fx.Node) -> Any:  # noqa: ANN401 - an interval, a tensor or whatever a constant is
        """What is known of a placeholder: a weight's value, an input's limits."""
        tensor, value = self.trace.tensor(node), node.meta.get("val")
        if tensor is not None:
            tensor = tensor.detach()
            return tensor.double() if tensor.is_floating_point() else tensor.clone()
        if not isinstance(value, Tensor):
            return value
        anything: Interval = unbounded(node)
        if not anything.low.is_floating_point():
            return anything
        limit = torch.full_like(anything.low, self.input_limit)
        return Interval(-limit, limit)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the node returns
        """The interval of the node's result, or its value where it hangs on weights alone."""
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if not any(isinstance(each, Interval) for each in tree_flatten((args, kwargs))[0]):
            return super().run_node(n)
        if n in self.layers and isinstance(args[0], Interval):
            self.seen[n] = _seen(args[0], channel_axis(n))
        return enclose(IntervalCall(n, args, kwargs))


def _seen(value: Interval, axis: int) -> Seen:
    low, high = (each.movedim(axis, 0).flatten(1) for each in (value.low, value.high))
    return Seen(
        maps=(low + high) / 2,
        spread=((high - low) / 2).amax(1),
        largest=torch.maximum(low.abs(), high.abs()).amax(1),
    )
