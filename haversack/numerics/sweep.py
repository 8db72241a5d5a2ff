"""Sweep: layer after layer is chosen anew, while the network before it already computes with what was chosen.

A layer reads what the changed layers before it compute and is fitted to what the original network computes there;
before a sum, to what the sum needs, so that errors do not add up along a residual network.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.annotation import layers
from haversack.graph.inference import tensor_of
from haversack.graph.named_tensors import is_finite
from haversack.graph.observe import Batches
from haversack.numerics.lane import Lane
from haversack.numerics.least_squares import Fit, Moments
from haversack.numerics.patches import Patches, channel_dim

aten = torch.ops.aten

# Neighbouring positions of a map say nearly the same: more of them change nothing but the time.
_MOST_POSITIONS = 100_000


@dataclass(frozen=True)
class SweptLayer:
    """A layer whose weight is chosen; `bias` is the name of its bias, `free_bias` whether that may change.

    `wanted` is the value of the original network that it shall repeat, in the channels `rows` where not in all: its
    own, or that of the sum that it completes; `completes` is that sum in the network of `node`.
    """

    node: fx.Node
    weight: str
    bias: str | None
    free_bias: bool
    completes: fx.Node | None
    wanted: fx.Node
    rows: Tensor | None = None


def swept_layers(network: fx.GraphModule, names: Collection[str], writable: Collection[str]) -> list[SweptLayer]:
    """The layers in `names` whose weight may be any, in the order in which they run.

    Raises RecipeError for weights that hold NaN or infinity.
    """
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    readers = Counter(str(node.target) for node in network.graph.find_nodes(op="get_attr") for _ in node.users)
    own = {name for name in writable if readers[name] == 1}
    found = []
    for node, weight in layers(network):
        if weight in names and weight in own and Patches.know(node):
            if not is_finite(tensor_of(network, weight)):
                raise RecipeError("the weights hold NaN or infinity.", where=weight, mend="train the network again.")
            bias = node.args[2] if len(node.args) > 2 else None
            name = str(bias.target) if isinstance(bias, fx.Node) else None
            total = _completed(node, places)
            found.append(SweptLayer(node, weight, name, name in own, total, total or node))
    return found


class Sweep:
    """The original network and the changed one, side by side; `tensors` holds what was chosen so far.

    The layers are those of `changed`, or of the network that it rounds, in which they have the same names.
    """

    def __init__(
        self, original: fx.GraphModule, changed: fx.GraphModule, batches: Batches, chosen: Collection[SweptLayer]
    ) -> None:
        self._real = Lane(original, batches, {each.wanted for each in chosen})
        self._changed = Lane(changed, batches)
        self._twins = {node.name: node for node in changed.graph.nodes}
        self._sizes = [len(batch[0]) for batch in batches]
        self.tensors: dict[str, Tensor] = {}

    def fit(self, layer: SweptLayer, *, ridge: float) -> Fit:
        """The weights with which the layer comes closest to what is wanted of it, near those that it has."""
        weight = self._changed.tensors[layer.weight]
        moments = Moments(layer.node, weight, centred=layer.free_bias)
        for batch, size in enumerate(self._sizes):
            inputs, outputs = self._inputs_and_outputs(layer, batch)
            moments.add(inputs, outputs, _MOST_POSITIONS * size // sum(self._sizes))
        bias = None if layer.bias is None else self._changed.tensors[layer.bias]
        return moments.fit(weight, bias, ridge=ridge)

    def choose(self, layer: SweptLayer, weight: Tensor, fit: Fit) -> None:
        """Gives the layer this weight, in its own shape or the fit's, and the bias that goes with it."""
        old = self._changed.tensors[layer.weight]
        self.tensors[layer.weight] = weight.reshape(old.shape).to(old.dtype)
        if layer.bias is not None and layer.free_bias:
            bias = fit.bias(weight.double().reshape(fit.best.shape)).flatten()
            self.tensors[layer.bias] = bias.to(old.dtype)
        self._changed.tensors |= self.tensors

    def _inputs_and_outputs(self, layer: SweptLayer, batch: int) -> tuple[Tensor, Tensor]:
        """What the layer reads in the changed network, and what it should make of it."""
        twin = self._twins[layer.node.name]
        self._changed.run(batch, twin, inclusive=False)
        self._real.run(batch, layer.wanted, inclusive=True)
        inputs = self._changed.read(batch, cast("fx.Node", twin.args[0]))
        wanted = self._real.take(batch, layer.wanted)
        if layer.rows is not None:
            wanted = wanted.index_select(channel_dim(layer.node), layer.rows)
        if layer.completes is not None:
            # The other summand's error is known by now: this layer makes up for it as well.
            other = self._twins[layer.completes.name].args[1 - layer.completes.args.index(layer.node)]
            wanted = wanted - self._changed.read(batch, cast("fx.Node", other))
        return inputs, wanted


def sum_after(layer: fx.Node) -> fx.Node | None:
    """The sum of which the layer's result is a summand of equal shape, and nothing else."""
    reader = next(iter(layer.users))
    plain = len(layer.users) == 1 and reader.target is aten.add.Tensor and not reader.kwargs
    return reader if plain and reader.meta["val"].shape == layer.meta["val"].shape else None


def _completed(layer: fx.Node, places: Mapping[fx.Node, int]) -> fx.Node | None:
    """The sum after the layer, if its other summand is there before the layer runs."""
    total = sum_after(layer)
    other = None if total is None else total.args[1 - total.args.index(layer)]
    return total if isinstance(other, fx.Node) and places[other] < places[layer] else None
