"""Reconstruct: the weights of a pruned network with which its layers compute what they did in the original one.

One sweep, layer by layer: a layer reads what the pruned network computes and is fitted by least squares to what the
original computes there; before a sum, to what the sum needs, so that errors do not add up along a residual network
(He et al. 2017, Channel Pruning for Accelerating Very Deep Neural Networks, section 3.2, for all layers).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.graph.norms import with_measured_norms
from haversack.graph.observe import Batches
from haversack.graph.quantized import inference
from haversack.graph.settle import settle, settleable
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

    Layers that share weights or compute them, and all that are neither convolutions nor linear, keep what they have.
    Raises TaskError where there are no inputs, or the networks compute NaN or infinity on them.
    """
    network = inference(small)
    sweep = _Sweep(network, inference(original), edits, batches)
    sweep.sparse = small.sparse
    chosen = list(_chosen(network, sweep.twins, settleable(small, network)))
    with torch.no_grad():
        for layer in track(chosen, "reconstructing", len(chosen)):
            sweep.fit(layer)
    settled = settle(small, sweep.tensors)
    return replace(settled, module=with_measured_norms(settled.module, batches))


@dataclass(frozen=True)
class _Layer:
    """A layer of the pruned network; `wanted` is the value of the original that it shall repeat."""

    node: fx.Node
    weight: str
    bias: str | None
    wanted: fx.Node
    completes: fx.Node | None


class _Sweep:
    def __init__(self, small: fx.GraphModule, original: fx.GraphModule, edits: Edits, batches: Batches) -> None:
        self.twins = _twins(small, original)
        keep = {node for node in original.graph.nodes if Patches.know(node) or node.target is aten.add.Tensor}
        self._real, self._small = Lane(original, batches, keep), Lane(small, batches)
        self._kept, self._sizes = edits.kept, [len(batch[0]) for batch in batches]
        self.tensors: dict[str, Tensor] = {}
        self.sparse: frozenset[str] = frozenset()

    def fit(self, layer: _Layer) -> None:
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
        # Zeros that pruning left stay zero.
        best = refitted(fit, (weight != 0).reshape(fit.best.shape)) if layer.weight in self.sparse else fit.best
        self.tensors[layer.weight] = best.reshape(weight.shape).to(weight.dtype)
        if layer.bias is not None:
            self.tensors[layer.bias] = fit.bias(best).flatten().to(weight.dtype)
        self._small.tensors |= self.tensors

    def _inputs_and_outputs(self, layer: _Layer, batch: int) -> tuple[Tensor, Tensor]:
        self._small.run(batch, layer.node, inclusive=False)
        self._real.run(batch, layer.wanted, inclusive=True)
        inputs = self._small.read(batch, cast("fx.Node", layer.node.args[0]))
        wanted = self._real.take(batch, layer.wanted)
        rows = self._kept.get(layer.weight, {}).get(0)
        if rows is not None:
            wanted = wanted.index_select(channel_dim(layer.node), torch.tensor(rows))
        if layer.completes is not None:
            wanted = wanted - self._small.read(batch, layer.completes)
        return inputs, wanted


def _chosen(small: fx.GraphModule, twins: Mapping[str, fx.Node], writable: Collection[str]) -> Iterator[_Layer]:
    places = {node: place for place, node in enumerate(small.graph.nodes)}
    readers = Counter(str(node.target) for node in small.graph.find_nodes(op="get_attr") for _ in node.users)
    own = {name for name in writable if readers[name] == 1}
    for node in small.graph.nodes:
        if not _is_layer(node) or weight_of(node) not in own or node.name not in twins:
            continue
        bias = node.args[2] if len(node.args) > 2 else None
        name = str(bias.target) if isinstance(bias, fx.Node) and str(bias.target) in own else None
        if bias is not None and name is None:
            continue
        add, other = _sum(node, places)
        twin = twins[node.name]
        reader = next(iter(twin.users))
        if add is node or len(twin.users) > 1 or reader.target is not aten.add.Tensor:
            yield _Layer(node, weight_of(node), name, twin, None)
        else:
            yield _Layer(node, weight_of(node), name, reader, other)


def _twins(small: fx.GraphModule, original: fx.GraphModule) -> Mapping[str, fx.Node]:
    """The original's layers by the names of those of `small` that hold their weights: names shift with each removal."""
    layers = {weight_of(node): node for node in original.graph.nodes if _is_layer(node)}
    return {
        node.name: layers[weight_of(node)]
        for node in small.graph.nodes
        if _is_layer(node) and weight_of(node) in layers
    }


def _is_layer(node: fx.Node) -> bool:
    return Patches.know(node) and cast("fx.Node", node.args[1]).op == "get_attr"


def _sum(layer: fx.Node, places: Mapping[fx.Node, int]) -> tuple[fx.Node, fx.Node | None]:
    reader = next(iter(layer.users))
    if len(layer.users) > 1 or reader.target is not aten.add.Tensor or reader.kwargs:
        return layer, None
    other = reader.args[1 - reader.args.index(layer)]
    known = isinstance(other, fx.Node) and places[other] < places[layer]
    same = reader.meta["val"].shape == layer.meta["val"].shape
    return (reader, cast("fx.Node", other)) if known and same else (layer, None)


def weight_of(layer: fx.Node) -> str:
    """The name of the layer's weight."""
    return str(cast("fx.Node", layer.args[1]).target)


def channel_dim(layer: fx.Node) -> int:
    """The dimension of a layer's outputs that its rows make."""
    return -1 if layer.target is aten.linear.default else 1
