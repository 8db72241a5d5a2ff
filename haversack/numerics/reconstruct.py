"""Reconstruct: the weights of a pruned network with which its layers compute what they did in the original one.

One sweep, layer by layer: a layer reads what the pruned network computes and is fitted by least squares to what the
original computes there; before a sum, to what the sum needs, so that errors do not add up along a residual network
(He et al. 2017, Channel Pruning for Accelerating Very Deep Neural Networks, section 3.2, for all layers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.graph.norms import settled_to_train
from haversack.graph.observe import Batches
from haversack.graph.quantized import inference
from haversack.graph.settle import settleable
from haversack.model import Edits, Model
from haversack.numerics.lane import Lane
from haversack.numerics.least_squares import Moments
from haversack.numerics.patches import Patches
from haversack.numerics.surgeon import refitted
from haversack.progress import track

aten = torch.ops.aten
_RIDGE = 1e-3
_MOST_POSITIONS = 100_000


def reconstructed(small: Model, original: Model, edits: Edits, batches: Batches) -> Model:
    """`small`, which `edits` made of `original`, with new weights, biases and batch norms.

    Layers that share weights or compute them, and all that are neither convolutions nor linear, keep what they have;
    zeros that pruning left stay zero. Raises TaskError where there are no inputs, or the networks compute NaN or
    infinity on them.
    """
    networks = inference(small), inference(original)
    chosen = list(_chosen(*networks, settleable(small, networks[0]), edits))
    sweep = _Sweep(*networks, batches, chosen)
    with torch.no_grad():
        for layer in track(chosen, "reconstructing", len(chosen)):
            sweep.fit(layer, sparse=layer.weight in small.sparse)
    return settled_to_train(small, sweep.tensors, batches)


@dataclass(frozen=True)
class _Layer:
    """A layer of the pruned network.

    `wanted` is the value of the original that it shall repeat, in the channels `rows` where not in all: its own, or
    the sum that it completes beside `other`.
    """

    node: fx.Node
    weight: str
    bias: str | None
    rows: Tensor | None
    wanted: fx.Node
    other: fx.Node | None


class _Sweep:
    """The original and the pruned network, side by side; `tensors` holds what was fitted so far."""

    def __init__(
        self, small: fx.GraphModule, original: fx.GraphModule, batches: Batches, chosen: Collection[_Layer]
    ) -> None:
        self._real = Lane(original, batches, {each.wanted for each in chosen})
        self._small = Lane(small, batches)
        self._sizes = [len(batch[0]) for batch in batches]
        self.tensors: dict[str, Tensor] = {}

    def fit(self, layer: _Layer, *, sparse: bool) -> None:
        """Gives the layer the weight and the bias that come closest to what is wanted of it."""
        weight = self._small.tensors[layer.weight]
        moments = Moments(layer.node, weight, centred=layer.bias is not None)
        for batch, size in enumerate(self._sizes):
            inputs, outputs = self._inputs_and_outputs(layer, batch)
            moments.add(inputs, outputs, _MOST_POSITIONS * size // sum(self._sizes))
        if not moments.is_finite:
            raise TaskError(
                "there are no calibration inputs, or the network computes NaN or infinity on them.",
                where=f"value {layer.node.name}",
                mend="check the inputs and the weights of the network.",
            )
        fit = moments.fit(weight, None, ridge=_RIDGE)
        best = refitted(fit, (weight != 0).reshape(fit.best.shape)) if sparse else fit.best
        self.tensors[layer.weight] = best.reshape(weight.shape).to(weight.dtype)
        if layer.bias is not None:
            self.tensors[layer.bias] = fit.bias(best).flatten().to(weight.dtype)
        self._small.tensors |= self.tensors

    def _inputs_and_outputs(self, layer: _Layer, batch: int) -> tuple[Tensor, Tensor]:
        self._small.run(batch, layer.node, inclusive=False)
        self._real.run(batch, layer.wanted, inclusive=True)
        inputs = self._small.read(batch, cast("fx.Node", layer.node.args[0]))
        wanted = self._real.take(batch, layer.wanted)
        if layer.rows is not None:
            wanted = wanted.index_select(-1 if layer.node.target is aten.linear.default else 1, layer.rows)
        if layer.other is not None:
            # The other summand's error is known by now: this layer makes up for it as well.
            wanted = wanted - self._small.read(batch, layer.other)
        return inputs, wanted


def _chosen(
    small: fx.GraphModule, original: fx.GraphModule, writable: Collection[str], edits: Edits
) -> Iterator[_Layer]:
    """The layers that can be fitted, in the order in which they run."""
    places = {node: place for place, node in enumerate(small.graph.nodes)}
    readers = Counter(str(node.target) for node in small.graph.find_nodes(op="get_attr") for _ in node.users)
    own = {name for name in writable if readers[name] == 1}
    # By their weights: the names of nodes shift with each removal.
    twins = {_weight(node): node for node in original.graph.nodes if _is_layer(node)}
    kept = edits.kept
    for node in small.graph.nodes:
        if not _is_layer(node) or _weight(node) not in own or _weight(node) not in twins:
            continue
        weight, bias = _weight(node), node.args[2] if len(node.args) > 2 else None
        name = str(bias.target) if isinstance(bias, fx.Node) else None
        if name is None or name in own:
            rows = kept.get(weight, {}).get(0)
            taken = None if rows is None else torch.tensor(rows)
            yield _Layer(node, weight, name, taken, *_wanted(node, twins[weight], places))


def _wanted(layer: fx.Node, twin: fx.Node, places: Mapping[fx.Node, int]) -> tuple[fx.Node, fx.Node | None]:
    """What the original's layer computes or completes, and what the pruned network adds to that."""
    if not (_is_summed(layer) and _is_summed(twin)):
        return twin, None
    add = next(iter(layer.users))
    other = add.args[1 - add.args.index(layer)]
    known = isinstance(other, fx.Node) and places[other] < places[layer]
    return (next(iter(twin.users)), cast("fx.Node", other)) if known else (twin, None)


def _is_summed(layer: fx.Node) -> bool:
    """Whether the layer's result is a summand of equal shape, and nothing else."""
    reader = next(iter(layer.users))
    plain = len(layer.users) == 1 and reader.target is aten.add.Tensor and not reader.kwargs
    return plain and bool(reader.meta["val"].shape == layer.meta["val"].shape)


def _is_layer(node: fx.Node) -> bool:
    return Patches.know(node) and cast("fx.Node", node.args[1]).op == "get_attr"


def _weight(layer: fx.Node) -> str:
    return str(cast("fx.Node", layer.args[1]).target)
