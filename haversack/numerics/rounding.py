"""Rounding in closed form: weights that go to the integers which repair each other's errors on the calibration inputs.

One sweep, layer by layer, in seconds. A layer reads what the rounded layers before it compute and is fitted to what
the float network computes there; before a sum, to what the sum needs, so that errors do not add up along a residual
network. Its weights are refitted by least squares, rounded with their step (GPTQ, Frantar et al. 2022), and its bias
makes up for the mean.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError, TaskError
from haversack.graph.observe import Batches
from haversack.graph.quantized import insert, layers, read_by, tensor_of
from haversack.grid import Grid, symmetric
from haversack.numerics import Rounded
from haversack.numerics.closest import closest
from haversack.numerics.lane import Lane
from haversack.numerics.least_squares import Fit, Moments
from haversack.numerics.patches import Patches
from haversack.numerics.ranges import limits_for_bias, weight_grids

aten = torch.ops.aten

_RIDGE = 1e-2
# Neighbouring positions of a map say nearly the same: more of them change nothing but the time.
_MOST_POSITIONS = 100_000


@torch.no_grad()
def round_closed_form(
    network: fx.GraphModule,
    grids: Mapping[str, Grid],
    bits: Mapping[str, int],
    batches: Batches,
    *,
    writable: Collection[str],
) -> Rounded:
    """Weights on `bits` bits a weight name, and biases, with which the network stays closest to what it computes.

    `grids` are those of the values, none where values stay float. Only what is named in `writable` changes; other
    weights in `bits`, and those that layers share, are rounded to nearest. Weights not in `bits` stay float. Raises
    RecipeError for weights that hold NaN or infinity.
    """
    chosen = _chosen(network, bits, writable)
    others = bits.keys() - {each.weight for each in chosen}
    plain = weight_grids(network, grids, {name: bits[name] for name in others})
    sweep = _Sweep(network, {**grids, **plain}, batches, chosen)
    for layer in chosen:
        sweep.round(layer, _least_steps(network, layer, grids))
    return Rounded(sweep.tensors, {**plain, **sweep.grids})


@dataclass(frozen=True)
class _Layer:
    """A layer whose weight is chosen.

    `wanted` is the float value that it shall repeat: its own, or that of the sum that it completes. `bias` is the name
    of its bias, `free_bias` whether that may change.
    """

    node: fx.Node
    weight: str
    bits: int
    bias: str | None
    free_bias: bool
    wanted: fx.Node

    @property
    def top(self) -> int:
        """The largest of its integers."""
        return (1 << self.bits - 1) - 1


class _Sweep:
    """The float and the rounded network, side by side from layer to layer."""

    def __init__(
        self, network: fx.GraphModule, grids: Mapping[str, Grid], batches: Batches, chosen: Collection[_Layer]
    ) -> None:
        rounded = insert(network, grids)
        self._real = Lane(network, batches, {each.wanted for each in chosen})
        self._rounded = Lane(rounded, batches)
        self._twins = {node.name: node for node in rounded.graph.nodes}
        self._sizes = [len(batch[0]) for batch in batches]
        self.tensors: dict[str, Tensor] = {}
        self.grids: dict[str, Grid] = {}

    def round(self, layer: _Layer, least: Tensor) -> None:
        """Chooses the layer's weight and bias, with which the rounded network goes on."""
        weight = self._rounded.tensors[layer.weight]
        fit = self._fit(layer, weight)
        codes, steps = closest(fit, layer.top, least.double().expand(len(weight)).reshape(fit.rows.shape))
        grid = symmetric(steps * layer.top, axis=0, bits=layer.bits)
        chosen = grid.dequantize(codes.reshape(weight.shape).to(torch.int32))
        self.grids[layer.weight], self.tensors[layer.weight] = grid, chosen
        if layer.bias is not None and layer.free_bias:
            self.tensors[layer.bias] = fit.bias(chosen.double().reshape(fit.best.shape)).flatten().to(weight.dtype)
        self._rounded.tensors |= self.tensors

    def _fit(self, layer: _Layer, weight: Tensor) -> Fit:
        moments = Moments(layer.node, weight, centred=layer.free_bias)
        for batch, size in enumerate(self._sizes):
            inputs, outputs = self._inputs_and_outputs(layer, batch)
            moments.add(inputs, outputs, _MOST_POSITIONS * size // sum(self._sizes))
        if not moments.is_finite:
            raise TaskError(
                "there are no calibration inputs, or the network computes NaN or infinity on them.",
                where=f"value {layer.node.name}",
                mend="check the inputs and the weights of the network.",
            )
        bias = None if layer.bias is None else self._rounded.tensors[layer.bias]
        return moments.fit(weight, bias, ridge=_RIDGE)

    def _inputs_and_outputs(self, layer: _Layer, batch: int) -> tuple[Tensor, Tensor]:
        """What the layer reads in the rounded network, and what it should make of it."""
        twin = self._twins[layer.node.name]
        self._rounded.run(batch, twin, inclusive=False)
        self._real.run(batch, layer.wanted, inclusive=True)
        inputs = self._rounded.read(batch, cast("fx.Node", twin.args[0]))
        wanted = self._real.take(batch, layer.wanted)
        if layer.wanted is not layer.node:
            # The other summand's error is known by now: this layer makes up for it as well.
            other = self._twins[layer.wanted.name].args[1 - layer.wanted.args.index(layer.node)]
            wanted = wanted - self._rounded.read(batch, cast("fx.Node", other))
        return inputs, wanted


def _chosen(network: fx.GraphModule, bits: Mapping[str, int], writable: Collection[str]) -> list[_Layer]:
    """The layers whose weight may be any, in the order in which they run."""
    places = {node: place for place, node in enumerate(network.graph.nodes)}
    readers = Counter(str(node.target) for node in network.graph.find_nodes(op="get_attr") for _ in node.users)
    own = {name for name in writable if readers[name] == 1}
    found = []
    for node, weight in layers(network):
        if weight in bits and weight in own and Patches.know(node):
            if not tensor_of(network, weight).isfinite().all():
                raise RecipeError("the weights hold NaN or infinity.", where=weight, mend="train the network again.")
            bias = node.args[2] if len(node.args) > 2 else None
            name = str(bias.target) if isinstance(bias, fx.Node) else None
            found.append(_Layer(node, weight, bits[weight], name, name in own, _wanted(node, places)))
    return found


def _wanted(layer: fx.Node, places: Mapping[fx.Node, int]) -> fx.Node:
    """The sum that the layer completes, if nobody else reads the layer; otherwise the layer."""
    reader = next(iter(layer.users))
    if len(layer.users) > 1 or reader.target is not aten.add.Tensor or reader.kwargs:
        return layer
    other = reader.args[1 - reader.args.index(layer)]
    completes = isinstance(other, fx.Node) and places[other] < places[layer]
    return reader if completes and reader.meta["val"].shape == layer.meta["val"].shape else layer


def _least_steps(network: fx.GraphModule, layer: _Layer, grids: Mapping[str, Grid]) -> Tensor:
    """The least steps, one number for all or one an output channel: the bias must fit into its integers."""
    inputs = grids.get(read_by(layer.node))
    limits = torch.zeros(()) if inputs is None else limits_for_bias(network, layer.node, inputs, layer.bits)
    return (limits / layer.top).clamp_min(1e-8)
