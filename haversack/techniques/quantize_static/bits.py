"""Bits: what few of them cost in each layer, and how to spend them where they count (Dong et al. 2019)."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from haversack.allocate import allocate
from haversack.batches import each_of
from haversack.calibration.ranges import limits_of_least_error
from haversack.choices import Bits, Option, Site
from haversack.graph.folded import Folded
from haversack.graph.run import Batches, joined
from haversack.grid import symmetric
from haversack.progress import track

_SAMPLES = 256
# A number, however small, keeps two layers of no measured loss from being a draw.
_TINY = 1e-12

Losses = Mapping[str, Mapping[int, float]]


def sensitivity(folded: Folded, bits: Sequence[int], batches: Batches) -> Losses:
    """For each weight and number of bits: the error of the outputs when this weight alone has so few bits.

    The error is the mean square over at most 256 samples, relative to the outputs' own mean square. Weights are rounded
    to the nearest point of a grid with one step an output channel.
    """
    inputs = joined(batches, _SAMPLES)
    with torch.no_grad():
        wanted = each_of(folded(*inputs))
        powers = [float(each.square().mean()) + _TINY for each in wanted]
        found: dict[str, dict[int, float]] = {}
        names = list(dict.fromkeys(layer.weight for layer in folded.layers()))
        for name, few in track([(name, few) for name in names for few in bits], "sensitivity", len(names) * len(bits)):
            limits = folded.tensor(name).abs().flatten(1).amax(1)
            outputs = each_of(folded.lowered({name: symmetric(limits, axis=0, bits=few)})(*inputs))
            errors = [float((ours - theirs).square().mean()) for ours, theirs in zip(outputs, wanted, strict=True)]
            found.setdefault(name, {})[few] = sum(map(operator.truediv, errors, powers)) / len(powers)
    return found


@dataclass(frozen=True)
class Spending:
    """So many bits for a weight: what they cost in all, and what is lost by them."""

    name: str
    bits: int
    cost: float
    loss: float


def spent(losses: Losses, counts: Mapping[str, int], limit: float) -> dict[str, int]:
    """The bits of each weight that lose least with at most `limit` in all, or the fewest; `counts` are elements."""
    options = (
        [Spending(name, few, few * counts[name], loss) for few, loss in each.items()] for name, each in losses.items()
    )
    return {each.name: each.bits for each in allocate(list(options), limit)}


OFFERED = (8, 6, 4, 3, 2)
"""Bits of weights that a planner chooses from. Plain files store 4 and fewer in half a byte; coded ones any number."""
_SHARES = tuple(share / 100 for share in range(100, 29, -5))


def bit_sites(paths: Sequence[str], most: int) -> tuple[Site, ...]:
    """A site for the weight of each layer at `paths`, with `most` bits where nothing is done."""
    return tuple(
        Site(path, "quantize_static", tuple(Option(f"{bits} bits", Bits(path, bits)) for bits in (most, *OFFERED[1:])))
        for path in paths
    )


def in_fewer_bits(folded: Folded, name: str) -> list[Tensor]:
    """The weight of that name, nearest on the best grid of each number of bits that is offered below 8."""
    weight = folded.tensor(name).detach()
    axis = next(layer.axis for layer in folded.layers(transposed=True) if layer.weight == name)
    rows = weight.transpose(0, axis).flatten(1)
    limits = [limits_of_least_error(rows, bits, _SHARES) for bits in OFFERED[1:]]
    grids = [symmetric(limit, axis=axis, bits=bits) for limit, bits in zip(limits, OFFERED[1:], strict=True)]
    return [grid.round(weight) for grid in grids]
