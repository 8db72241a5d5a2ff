"""Lane: a network run operation by operation, which may wait, go on elsewhere with other weights, or skip a block."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, cast

from torch import Tensor, fx

from haversack.graph.pairs import pairs
from haversack.graph.run import Batches, named_tensors

_DEQUANTIZE = pairs.dequantize_per_tensor.default


@dataclass(frozen=True)
class Span:
    """Operations `inside` that read one value of the graph, and of whose results the rest of it reads one."""

    inside: frozenset[fx.Node]
    reads: fx.Node
    gives: fx.Node

    @classmethod
    def of(cls, graph: fx.Graph, path: str) -> Self | None:
        """The operations of the module at `path`; None where they read or give several values, or none."""
        inside = frozenset(node for node in graph.nodes if _is_in(node, path))
        reads = {read for node in inside for read in node.all_input_nodes if read.op != "get_attr"} - inside
        gives = [node for node in inside if any(user not in inside for user in node.users)]
        return cls(inside, reads.pop(), gives[0]) if len(reads) == len(gives) == 1 else None


def _is_in(node: fx.Node, path: str) -> bool:
    """Whether the operation stands in the module at `path`."""
    stack = node.meta.get("nn_module_stack") or {}
    return node.op == "call_function" and any(f"{where}.".startswith(f"{path}.") for where, _ in stack.values())


class Lane:
    """Runs `network` up to some operation, one batch at a time; `keep` names values to hold until they are taken.

    `tensors` holds the weights, which may be replaced before the operation that reads them runs.
    """

    def __init__(self, network: fx.GraphModule, batches: Batches, keep: Collection[fx.Node] = ()) -> None:
        self.nodes = list(network.graph.nodes)
        self._places = {node: place for place, node in enumerate(self.nodes)}
        self.tensors = named_tensors(network)
        self._keep = frozenset(keep)
        self._done = [0] * len(batches)
        inputs = list(network.graph.find_nodes(op="placeholder"))
        self._states: list[dict[fx.Node, Any]] = [dict(zip(inputs, batch, strict=True)) for batch in batches]
        self._kept: list[dict[fx.Node, Any]] = [{} for _ in batches]
        self._last = _last_reads(self.nodes)
        self._span: Span | None = None

    def run(self, batch: int, node: fx.Node, *, inclusive: bool) -> None:
        """Goes on with a batch to just before `node`, or to just after it."""
        state, end = self._states[batch], self._places[node] + inclusive
        for each in self.nodes[self._done[batch] : end]:
            if self._span is not None and each in self._span.inside:
                if each is self._span.gives:
                    state[each] = state[self._span.reads]
                continue
            if each.op == "call_function":
                state[each] = self._result(each, batch)
            if each in self._keep:
                self._kept[batch][each] = state[each]
            for dead in self._last.get(each, ()):
                del state[dead]
        self._done[batch] = max(self._done[batch], end)

    def fork(self, keep: Collection[fx.Node] = (), without: Span | None = None) -> Lane:
        """A lane of its own that goes on from here, with values to keep, and without the operations of a span."""
        twin = copy.copy(self)
        twin.__dict__ |= {
            "tensors": dict(self.tensors),
            "_keep": frozenset(keep),
            "_span": without,
            "_done": list(self._done),
            "_states": [dict(state) for state in self._states],
            "_kept": [{} for _ in self._states],
        }
        return twin

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
