"""Rounding in closed form: weights go to the integers which repair each other's errors on the calibration inputs.

One sweep, layer by layer, in seconds. A layer's weights are refitted by least squares and rounded with their step, and
its bias makes up for the mean. Where pruning left a zero there is no weight: it stays zero, and the others are refitted
and rounded without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from haversack.calibration.closest import closest
from haversack.calibration.ranges import Rounded, limits_for_bias, weight_grids
from haversack.calibration.sweep import Sweep, SweptLayer, swept_layers
from haversack.graph.folded import Folded
from haversack.graph.run import Batches
from haversack.grid import Grid, symmetric

_RIDGE = 1e-2


@torch.no_grad()
def round_closed_form(
    folded: Folded, grids: Mapping[str, Grid], bits: Mapping[str, int], batches: Batches, sparse: Collection[str] = ()
) -> Rounded:
    """Weights on `bits` bits a weight name, and biases, with which the network stays closest to what it computes.

    `grids` are those of the values, none where values stay float. Only what is writable changes; other
    weights in `bits`, and those that layers share, are rounded to nearest. Weights not in `bits` stay float; zeros of
    those in `sparse` stay zero. Raises RecipeError for weights that hold NaN or infinity.
    """
    chosen = swept_layers(folded, bits)
    others = bits.keys() - {each.weight for each in chosen}
    plain = weight_grids(folded, grids, {name: bits[name] for name in others})
    sweep = Sweep.over(folded, folded.lowered({**grids, **plain}), batches, chosen)
    found: dict[str, Grid] = {}
    for layer in chosen:
        weight, top = folded.tensor(layer.weight), (1 << bits[layer.weight] - 1) - 1
        fit = sweep.fit(layer, ridge=_RIDGE)
        least = _least_steps(folded, layer, grids, bits[layer.weight]).double().expand(len(weight))
        kept = (weight != 0).reshape(fit.best.shape) if layer.weight in sparse else None
        codes, steps = closest(fit, top, least.reshape(fit.rows.shape), kept)
        grid = found[layer.weight] = symmetric(steps * top, axis=0, bits=bits[layer.weight])
        sweep.choose(layer, grid.dequantize(codes.reshape(weight.shape).to(torch.int32)), fit)
    return Rounded(sweep.tensors, {**plain, **found})


def _least_steps(folded: Folded, layer: SweptLayer, grids: Mapping[str, Grid], bits: int) -> Tensor:
    """The least steps, one number for all or one an output channel: the bias must fit into its integers."""
    inputs = grids.get(layer.reads)
    limits = torch.zeros(()) if inputs is None else limits_for_bias(folded, layer.bias, inputs, bits)
    return (limits / ((1 << bits - 1) - 1)).clamp_min(1e-8)
