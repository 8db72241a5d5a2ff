"""Noise: how much of each layer's output is rounding, and how much of the outputs' is one layer's doing."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from haversack.graph.annotation import layers, points, read_by
from haversack.graph.inference import tensor_of, with_tensors
from haversack.graph.observe import Batches
from haversack.graph.qdq import insert
from haversack.graph.trace import layer_path
from haversack.grid import Grid, symmetric
from haversack.numerics.rewrite import leaving_float
from haversack.progress import track

_SILENCE_DB = 200.0


@dataclass(frozen=True)
class LayerNoise:
    """A layer of a quantized network: where it is, its weights, and what its rounding does."""

    path: str
    weight: str
    bits: int
    weights: int
    snr_db: float
    """Signal to noise of the layer's output, the noise of all layers before it included."""
    alone_db: float
    """Signal to noise of the network's outputs when this layer alone is quantized: the lower, the guiltier.

    The other way round, with this layer alone left float, rounding and biases that make up for each other's errors
    would hide the guilty.
    """


@dataclass(frozen=True)
class Pair:
    """A float inference graph, and the same graph with the weights and the grids of the quantized network."""

    wanted: fx.GraphModule
    network: fx.GraphModule
    grids: Mapping[str, Grid]

    def lowered(self) -> fx.GraphModule:
        """The quantized network."""
        return insert(self.network, self.grids)

    def with_layers_float(self, paths: Sequence[str]) -> fx.GraphModule:
        """The quantized network with the layers at `paths` left float, their own weights and biases back."""
        free = leaving_float(self.network, paths)
        needed = {*points(free), *(name for _, name in layers(free))}
        own = self._own(self.grids.keys() - needed)
        return insert(with_tensors(self.network, own), {name: self.grids[name] for name in self.grids.keys() & needed})

    def with_one_layer(self, layer: fx.Node) -> fx.GraphModule:
        """The float network in which this layer alone computes on integers."""
        own = {str(each.target): tensor_of(self.network, str(each.target)) for each in layer.all_input_nodes[1:]}
        names = {*own, read_by(layer), layer.name, *(user.name for user in layer.users)}
        return insert(with_tensors(self.wanted, own), {name: self.grids[name] for name in self.grids.keys() & names})

    def with_layers_of_8_bits(self, weights: Collection[str]) -> fx.GraphModule:
        """The quantized network with these weights on grids of 8 bits, and the biases of their layers as they were."""
        own = self._own(weights)
        finer = {name: symmetric(own[name].abs().flatten(1).amax(1), axis=0, bits=8) for name in weights}
        return insert(with_tensors(self.network, own), {**self.grids, **finer})

    def _own(self, weights: Collection[str]) -> dict[str, Tensor]:
        """The float network's tensors of the layers with these weights: a bias was corrected for the rounded weight."""
        concerned = [node for node, name in layers(self.network) if name in weights]
        names = {str(each.target) for node in concerned for each in node.all_input_nodes[1:] if each.op == "get_attr"}
        return {name: tensor_of(self.wanted, name) for name in names}


def output_snr_db(wanted: fx.GraphModule, found: fx.GraphModule, batches: Batches) -> float:
    """Signal to noise of the outputs of `found`, those of `wanted` being the signal, in dB; at most 200."""
    signal = noise = 0.0
    with torch.no_grad():
        for batch in batches:
            real = wanted(*batch).double()
            signal, noise = signal + float(real.square().sum()), noise + float((found(*batch) - real).square().sum())
    return _decibels(signal, noise)


def layer_noise(pair: Pair, batches: Batches) -> tuple[LayerNoise, ...]:
    """Each quantized layer in the order in which they run."""
    quantized = [(node, name) for node, name in layers(pair.network) if name in pair.grids]
    ratios = _ratios(pair, [node.name for node, _ in quantized], batches)
    found = []
    for node, name in track(quantized, "each layer by itself", len(quantized)):
        path = layer_path(node) or name.removesuffix(".weight")
        alone = output_snr_db(pair.wanted, pair.with_one_layer(node), batches)
        count = tensor_of(pair.network, name).numel()
        found.append(LayerNoise(path, name, pair.grids[name].bits, count, ratios[node.name], alone))
    return tuple(found)


def _ratios(pair: Pair, names: Sequence[str], batches: Batches) -> dict[str, float]:
    """The signal to noise of the values called `names`."""
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    lowered = pair.lowered()
    with torch.no_grad():
        for batch in batches:
            wanted, found = _values(pair.wanted, names, batch), _values(lowered, names, batch)
            for name in names:
                signal[name] += float(wanted[name].double().square().sum())
                noise[name] += float((found[name] - wanted[name]).double().square().sum())
    return {name: _decibels(signal[name], noise[name]) for name in names}


def _values(network: fx.GraphModule, names: Collection[str], batch: Sequence[Tensor]) -> dict[str, Tensor]:
    keeper = _Keeper(network, frozenset(names))
    keeper.run(*batch)
    return keeper.kept


class _Keeper(fx.Interpreter):
    """Runs the graph and keeps the wanted values."""

    def __init__(self, network: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(network)
        self._names, self.kept = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        if n.name in self._names:
            self.kept[n.name] = value
        return value


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0 or signal <= 0:
        return _SILENCE_DB if noise <= 0 else -_SILENCE_DB
    return max(-_SILENCE_DB, min(_SILENCE_DB, 10 * math.log10(signal / noise)))
