"""Ranges: the grids of values and weights, from what was seen and what runtimes demand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, fx

from haversack.errors import RecipeError
from haversack.graph.annotation import fixed_ranges, layers, read_by, sharing, transposed_layers
from haversack.graph.inference import tensor_of
from haversack.graph.named_tensors import is_finite
from haversack.graph.observe import Observed, Ranges, spanning
from haversack.grid import Grid, blocks, round_, steps_of, symmetric

aten = torch.ops.aten

Activations = Literal["uint8", "int8", "int16"]
FORMATS: Mapping[str, tuple[int, bool]] = {"uint8": (8, False), "int8": (8, True), "int16": (16, True)}
# From here on, one outlier may take a bit from all other weights of its channel: cutting it is worth a search.
_FEW_BITS = 6
_SHARES = tuple(share / 100 for share in range(100, 39, -2))
_CREST = 16
# Errors are float32 sums: a bound has to be clearly larger.
_SURELY = 1.01


def value_grids(
    network: fx.GraphModule, seen: Mapping[str, Observed], ranges: Ranges, activations: Activations
) -> dict[str, Grid]:
    """A grid for every value in `seen`, which must be the graph's points.

    Values that should share a grid get the one that spans all of theirs, save those that a ReLU cut where others are
    negative: only on a grid that begins at zero does the ReLU vanish into the rounding (ONNX Runtime fuses no other),
    and rescaling at the concatenation costs less. Values whose range the specification settles get that range.
    """
    bits, signed = FORMATS[activations]
    limits = {name: each.limits(ranges, bits=bits) for name, each in seen.items()}
    for group in sharing(network):
        lows, highs = zip(*(limits[name] for name in group), strict=True)
        widest = (min(lows), max(highs))
        limits |= {name: widest for name in group if (limits[name][0] < 0) == (widest[0] < 0)}
    grids = {name: spanning(*ends, bits=bits, signed=signed) for name, ends in limits.items()}
    settled = {name: ends for name, ends in fixed_ranges(network).items() if name in grids}
    return grids | {name: _fixed(*ends, bits, signed=signed) for name, ends in settled.items()}


def weight_grids(
    network: fx.GraphModule, values: Mapping[str, Grid], bits: Mapping[str, int], *, joint: bool = False
) -> dict[str, Grid]:
    """One grid for each weight in `bits`, with one step an output channel; layers that share a weight share it.

    It holds all weights; below 7 bits, as much of them as makes the channel's squared rounding error least. With
    `joint` all channels of a linear layer have the same step, as the first version of TFLite's specification had it.
    """
    limits: dict[str, Tensor] = {}
    axes = {**dict.fromkeys(layers(network), 0), **dict.fromkeys(transposed_layers(network), 1)}
    for (layer, name), axis in axes.items():
        if name in bits:
            weight = tensor_of(network, name)
            if not is_finite(weight):
                raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
            least = limits_for_bias(network, layer, values[read_by(layer)], bits[name])
            wide = torch.maximum(_spans(weight.transpose(0, axis), bits[name]), least)
            if joint and layer.target is aten.linear.default:
                wide = wide.amax().expand(wide.shape)
            limits[name] = torch.maximum(limits.get(name, wide), wide)
    axis_of = {name: axis for (_, name), axis in axes.items()}
    return {name: symmetric(limit, axis=axis_of[name], bits=bits[name]) for name, limit in limits.items()}


def limits_for_bias(network: fx.GraphModule, layer: fx.Node, inputs: Grid, bits: int) -> Tensor:
    """The least weight limits with which the bias, in steps of input step x weight step, leaves 32 bits half free.

    A channel of nearly zero weights (batch norm switched it off) would otherwise lose its bias.
    """
    bias = layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(bias, fx.Node):
        return torch.zeros(())
    largest = (1 << bits - 1) - 1
    return tensor_of(network, str(bias.target)).abs() / (inputs.scale[0] * 2**30) * largest


def _fixed(low: float, high: float, bits: int, *, signed: bool) -> Grid:
    """TFLite's grid of sigmoid, softmax and tanh: steps of 1/256 and 1/128, or 1/32768 on 16 bits."""
    if bits > 8:
        return Grid(bits, signed, (2.0 ** (1 - bits),), (0,))
    scale = (high - low) / (1 << bits)
    return Grid(bits, signed, (scale,), (round(-low / scale) - ((1 << bits - 1) if signed else 0),))


def _spans(weight: Tensor, bits: int) -> Tensor:
    """The magnitude up to which each output channel's grid reaches."""
    rows = weight.detach().flatten(1)
    if bits > _FEW_BITS:
        return torch.cat([rows[some].abs().amax(1) for some in blocks(rows)])
    return limits_of_least_error(rows, bits, _SHARES)


def limits_of_least_error(rows: Tensor, bits: int, shares: Sequence[float]) -> Tensor:
    """Up to where the grid of each row reaches: the share of its largest magnitude of least squared rounding error.

    `shares` fall from 1; of equal ones the first is taken.
    """
    top = (1 << bits - 1) - 1
    return torch.cat([_best_limits(rows[some].abs(), top, shares) for some in blocks(rows)])


def _best_limits(sizes: Tensor, top: int, shares: Sequence[float]) -> Tensor:
    """The limits of rows of magnitudes; negative numbers are rounded like positive ones."""
    crests, errors = _crests(sizes), torch.empty_like(sizes)
    best = whole = crests.amax(1)
    least = torch.full_like(whole, torch.inf)
    for share in shares:
        limits = whole * share
        cut_off = (crests - limits.unsqueeze(1)).clamp_min_(0).square_().sum(1)
        if bool((cut_off > least * _SURELY).all()):
            # More than all the error so far; smaller shares cut off more.
            break
        steps = steps_of(limits, top).unsqueeze(1)
        round_(torch.div(sizes, steps, out=errors)).clamp_max_(top).mul_(steps).sub_(sizes).square_()
        error = errors.sum(1)
        best, least = torch.where(error < least, limits, best), torch.minimum(error, least)
    return best


def _crests(sizes: Tensor) -> Tensor:
    """Some of each row's magnitudes, nearly all the large ones among them: the largest of sixteen at a time."""
    width = -(-sizes.shape[1] // _CREST)
    whole = width * (sizes.shape[1] // width)
    crests = sizes[:, :whole].reshape(len(sizes), -1, width).amax(1)
    return crests if whole == sizes.shape[1] else torch.cat([crests, sizes[:, whole:]], 1)
