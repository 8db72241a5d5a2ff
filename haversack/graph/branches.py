"""Branches: the tensors of a traced network that its files do not have, because `merge` sums them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from torch import fx

from haversack.graph.fold import fold
from haversack.graph.memory import operation
from haversack.graph.merge import merge
from haversack.graph.trace import Trace

_SUMMED = ("conv1d", "conv2d", "conv3d", "batch_norm")


def merged_tensors(trace: Trace) -> frozenset[str]:
    """The kernels, biases, scales and shifts that go into a layer beside them, by their names in the state dict."""
    # Most networks have none: to fold them only to see that takes longer than to weigh them.
    if max(Counter(_summands(trace)).values(), default=0) < 2:
        return frozenset()
    merged = merge(fold(trace)).meta["merged"].values()
    return frozenset(name for each in merged for name in (*each.kernels, *each.zeroed))


def _summands(trace: Trace) -> Iterator[tuple[object, fx.Node]]:
    """Each summand's source, and the whole sum."""
    for node in trace.operations():
        total = _total(node) if operation(node) in _SUMMED else None
        if total is not None:
            yield node.args[0], total


def _total(node: fx.Node) -> fx.Node | None:
    """The sum that this value is a summand of, perhaps after its batch norm; None where it is none."""
    total = None
    while len(node.users) == 1:
        node = next(iter(node.users))
        if operation(node) == "add":
            total = node
        elif operation(node) != "batch_norm" or total is not None:
            break
    return total
