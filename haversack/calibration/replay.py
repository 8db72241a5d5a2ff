"""Replay: a network run again from one layer on with another weight there, and how far its outputs move by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from haversack.batches import Outputs
from haversack.calibration.currency import nats
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, channel_dim
from haversack.graph.run import Batches, joined
from haversack.positions import that_count
from haversack.task import Kinds

_FEWEST, _MOST = 32, 256
_NUMBERS = 1 << 28
"""Numbers of all values that are kept: a gigabyte."""
_TINY = 1e-6

Values = Mapping[fx.Node, Any]


class Replay:
    """What a folded network computes on some calibration inputs, kept value by value.

    `work` is how many multiply-accumulates a sample all that is to be tried takes: the more, the fewer samples. With
    `normed`, layers before a batch norm keep the spread of their outputs too, not only the mean; where it is None,
    neither.
    """

    def __init__(
        self, folded: Folded, batches: Batches, work: float, *, normed: bool | None, kind: Kinds = "classification"
    ) -> None:
        self._folded, self._normed, self._kind = folded, normed, kind
        self._interpreter = fx.Interpreter(folded.module)
        self._layers = {layer.weight: layer for layer in folded.layers(transposed=True)}
        self._inputs = joined(batches, samples(folded, work))
        self._plain = self._computed(self._inputs)
        self._outputs = self._counting(self._plain[folded.graph.output_node()])

    def losses(self, weight: str, others: Sequence[Tensor]) -> list[float]:
        """The mean divergence of the outputs, in nats, with each of `others` in the place of the weight of that name.

        The layer's mean outputs stay what they were, where it has a bias that can see to it and that is repaired.
        """
        changed = self._after(weight)
        return [self._loss(changed, weight, other) for other in others]

    def _loss(self, changed: Sequence[fx.Node], weight: str, other: Tensor) -> float:
        run, layer = self._interpreter, self._layers.get(weight)
        run.env = dict(self._plain)
        with torch.no_grad():
            for node in changed:
                if node.op == "get_attr":
                    run.env[node] = other
                    continue
                value = run.run_node(node)
                if self._normed is not None and layer is not None and layer.bias and node is layer.node:
                    value = self._repaired(layer, value)
                run.env[node] = value
        return nats(self._counting(run.env[self._folded.graph.output_node()]), self._outputs, self._kind)

    def _counting(self, outputs: Any) -> Outputs:  # noqa: ANN401 - what the graph gives
        """The outputs at the positions that count."""
        positions = self._folded.positions
        return that_count(positions.mask if positions else None, tuple(tree_leaves(outputs)), self._inputs)

    def _repaired(self, layer: FoldedLayer, value: Tensor) -> Tensor:
        plain: Tensor = self._plain[layer.node]
        channels = channel_dim(layer.node) % value.dim()
        dims = [dim for dim in range(value.dim()) if dim != channels]
        now, wanted = value.mean(dims, keepdim=True), plain.mean(dims, keepdim=True)
        if not (self._normed and layer.weight in self._folded.norms):
            return value + (wanted - now)
        spread = plain.var(dims, keepdim=True) + _TINY
        return (value - now) * (spread / (value.var(dims, keepdim=True) + _TINY)).sqrt() + wanted

    def _computed(self, inputs: tuple[Tensor, ...]) -> Values:
        """Every value on the inputs."""
        run = self._interpreter
        run.env = dict(zip(self._folded.graph.find_nodes(op="placeholder"), inputs, strict=True))
        with torch.no_grad():
            for node in self._folded.graph.nodes:
                if node.op != "placeholder":
                    run.env[node] = run.run_node(node)
        return dict(run.env)

    def _after(self, weight: str) -> list[fx.Node]:
        """The weight's node and all that is computed from it, in order."""
        changed: dict[fx.Node, None] = {}
        for node in self._folded.graph.nodes:
            own = node.op == "get_attr" and node.target == weight
            if own or any(read in changed for read in node.all_input_nodes):
                changed[node] = None
        return list(changed)


_BUDGET = 6e10
"""Multiply-accumulates that all trials of a technique take together, about a second on one core."""


def samples(folded: Folded, work: float) -> int:
    """So many samples that `work` multiply-accumulates each stay within seconds, and all values within memory."""
    values = (node.meta.get("val") for node in folded.graph.nodes if node.op == "call_function")
    numbers = sum(_numbers(value) for value in values)
    return max(1, min(_MOST, max(_FEWEST, int(_BUDGET / max(work, 1))), _NUMBERS // max(numbers, 1)))


def _numbers(value: object) -> int:
    """How many numbers of a value belong to one sample."""
    sizes = [size for size in value.shape[1:] if isinstance(size, int)] if isinstance(value, Tensor) else [0]
    return int(torch.Size(sizes).numel())
