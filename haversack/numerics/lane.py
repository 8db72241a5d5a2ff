"""Lane: a graph that runs piece by piece on all calibration batches, so that it can be changed on the way.

Between two pieces it holds only what later operations read, and rounded values as their integers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, cast

from torch import Tensor, fx

from haversack.graph.inference import tensor_of
from haversack.graph.observe import Batches
from haversack.graph.qdq import pairs

_DEQUANTIZE = pairs.dequantize_per_tensor.default


class Lane:
    """Runs `network` up to some operation, one batch at a time; `keep` names values to hold until they are taken.

    `tensors` holds the weights, which may be replaced before the operation that reads them runs.
    """

    def __init__(self, network: fx.GraphModule, batches: Batches, keep: Collection[fx.Node] = ()) -> None:
        self._nodes = list(network.graph.nodes)
        self._places = {node: place for place, node in enumerate(self._nodes)}
        constants = (str(node.target) for node in network.graph.find_nodes(op="get_attr"))
        self.tensors: dict[str, Tensor] = {name: tensor_of(network, name) for name in constants}
        self._keep = frozenset(keep)
        self._done = [0] * len(batches)
        inputs = list(network.graph.find_nodes(op="placeholder"))
        self._states: list[dict[fx.Node, Any]] = [dict(zip(inputs, batch, strict=True)) for batch in batches]
        self._kept: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._last = _last_reads(self._nodes)

    def run(self, batch: int, node: fx.Node, *, inclusive: bool) -> None:
        """Goes on with a batch to just before `node`, or to just after it."""
        state, end = self._states[batch], self._places[node] + inclusive
        for each in self._nodes[self._done[batch] : end]:
            if each.op == "call_function":
                state[each] = self._result(each, batch)
            if each in self._keep:
                self._kept[batch][each] = state[each]
            for dead in self._last.get(each, ()):
                del state[dead]
        self._done[batch] = max(self._done[batch], end)

    def read(self, batch: int, node: fx.Node) -> Any:  # noqa: ANN401 - values may be tensors, sizes or lists of them
        """The value of `node` on a batch."""
        if node.op == "get_attr":
            return self.tensors[str(node.target)]
        value = self._states[batch][node]
        return value() if isinstance(value, partial) else value

    def take(self, batch: int, node: fx.Node) -> Tensor:
        """The kept value of `node`, which is not held any longer."""
        value: Tensor = self._kept[batch].pop(node)
        return value

    def _result(self, node: fx.Node, batch: int) -> Any:  # noqa: ANN401
        target = cast("Callable[..., Any]", node.target)

        def read(argument: fx.Node) -> Any:  # noqa: ANN401
            return self.read(batch, argument)

        arguments, options = fx.map_arg(node.args, read), fx.map_arg(node.kwargs, read)
        if node.target is _DEQUANTIZE:
            # Integers take a quarter of the memory, and are made real again in no time.
            return partial(target, *arguments, **options)
        return target(*arguments, **options)


def _last_reads(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """The values that nobody reads after each operation has run."""
    last: dict[fx.Node, list[fx.Node]] = {}
    met: set[fx.Node] = set()
    for node in reversed(nodes):
        unread = [each for each in (*node.all_input_nodes, node) if each not in met and each.op != "get_attr"]
        met.update(unread)
        if node.op in ("call_function", "placeholder"):
            last[node] = list(dict.fromkeys(unread))
    return last
