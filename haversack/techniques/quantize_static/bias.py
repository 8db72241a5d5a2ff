"""Bias: what rounding shifts a layer's outputs by on average is taken out of its bias."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from haversack.graph.distributions import Noted
from haversack.graph.folded import Folded
from haversack.graph.ops import channel_dim
from haversack.graph.pairs import IN_BLOCKS
from haversack.graph.positions import Positions, by_channel, with_mask
from haversack.graph.run import Batches, joined, numbers_a_sample, show
from haversack.grid import Grid

_MOST_SAMPLES = 256
# All samples run at once: as many as keep one value of the network below this.
_MOST_NUMBERS = 1 << 24


def corrected_biases(folded: Folded, grids: Mapping[str, Grid], inputs: Batches | Noted) -> dict[str, Tensor]:
    """Biases with which each layer's mean outputs, channel by channel, are those of the float network.

    Empirical bias correction (Nagel et al. 2019, section 4.2): one sweep through both networks, in which every layer
    reads what the corrected layers before it compute. Layers without a bias of their own are left as they are.
    """
    named = {layer.node.name: layer.bias for layer in folded.layers() if layer.weight in grids and layer.bias}
    chosen = {layer: bias for layer, bias in named.items() if bias in folded.writable and _is_one(bias, named)}
    first = _first_samples(folded, inputs.batches if isinstance(inputs, Noted) else inputs)
    known = inputs.means(folded, chosen.keys(), len(first[0])) if isinstance(inputs, Noted) else None
    with torch.no_grad():
        sweep = _Sweep(folded, grids, known or _means(folded, chosen.keys(), first))
        sweep.run(*first)
    return {bias: folded.tensor(bias) - sweep.shifts[layer] for layer, bias in chosen.items()}


def _means(folded: Folded, layers: Collection[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """The mean outputs of these layers in the float network, channel by channel."""
    nodes = {layer.node.name: layer.node for layer in folded.layers()}
    means: dict[str, Tensor] = {}

    def note(name: str, value: Tensor, mask: Tensor | None) -> None:
        means[name] = _channel_means(folded.positions, nodes[name], value, mask)

    show(folded.module, inputs, *with_mask(folded.positions, layers, note))
    return means


class _Sweep(fx.Interpreter):
    """Runs the rounded graph, moves every layer's mean outputs to the wanted ones, and notes by how much."""

    def __init__(self, folded: Folded, grids: Mapping[str, Grid], wanted: Mapping[str, Tensor]) -> None:
        super().__init__(folded.lowered(grids))
        self.wanted, self.shifts = wanted, dict[str, Tensor]()
        self.positions = folded.positions
        self.mask: Tensor | None = None

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        if n.target in IN_BLOCKS:
            return IN_BLOCKS[n.target](*self.fetch_args_kwargs_from_env(n)[0])
        value = super().run_node(n)
        if self.positions is not None and n.name == self.positions.called:
            self.mask = value
        if n.name not in self.wanted:
            return value
        shift = _channel_means(self.positions, n, value, self.mask) - self.wanted[n.name].to(value.dtype)
        self.shifts[n.name] = shift
        # In place: nothing else has seen it, and a copy would be the largest memory that the sweep takes.
        return value.sub_(shift.view(-1, *[1] * (value.dim() - 1 - channel_dim(n) % value.dim())))


def _channel_means(positions: Positions | None, layer: fx.Node, value: Tensor, mask: Tensor | None) -> Tensor:
    """Over all samples and positions that count."""
    kept = by_channel(positions, layer.name, value, mask, channel_dim(layer))
    return kept.mean([dim for dim in range(kept.dim()) if dim != 1])


def _is_one(bias: str, named: Mapping[str, str]) -> bool:
    return list(named.values()).count(bias) == 1


def _first_samples(folded: Folded, batches: Batches) -> tuple[Tensor, ...]:
    """As many as fit into memory, as one batch."""
    return joined(batches, max(1, min(_MOST_SAMPLES, _MOST_NUMBERS // numbers_a_sample(folded.graph))))
