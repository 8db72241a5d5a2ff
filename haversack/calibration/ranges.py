"""Ranges: the grids of values and weights, from what was seen on the calibration inputs and what runtimes demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, fx

from haversack.calibration.histogram import BINS, Histogram
from haversack.errors import RecipeError, TaskError
from haversack.graph.bytes import in_steps, steps_at
from haversack.graph.folded import Folded
from haversack.graph.ops import FoldedLayer, Trait, fixed_ranges, sharing, traits_of
from haversack.graph.positions import counting, with_mask
from haversack.graph.run import Batches, Visit, is_finite, numbers_of, spacing, watch
from haversack.grid import Grid, affine, blocks, halved, round_, steps_of, symmetric

Ranges = Literal["min_max", "percentile", "mse"]
Run = Callable[[fx.GraphModule, Batches, Collection[str], Visit], None]
_TAIL = 1e-5
# So many numbers tell a range's tails as well as more do.
_COUNTED = 1 << 22
# Shorter than a tenth, and a step of 8 bits would be finer than a bin of the histogram.
_CUTS = tuple(share / 100 for share in range(100, 9, -1))
# Steps of more bits than this are finer than the bins, and reach far enough to need no cut.
_MOST_BITS_TO_CUT = 10


@dataclass(frozen=True)
class Observed:
    """Smallest and largest value seen, and how often each of 2048 equal bins between them was hit.

    `counts` is None where only the limits were asked for.
    """

    low: float
    high: float
    counts: Tensor | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the value was the same number throughout."""
        return self.low == self.high

    def limits(self, ranges: Ranges, *, bits: int = 8) -> tuple[float, float]:
        """The numbers between which a grid of so many bits should lie.

        All that was seen (`min_max`), all but one in 100,000 at either end (`percentile`), or as much as makes the mean
        squared rounding error least (`mse`). Grids of more than 10 bits get it all.
        """
        if self.is_constant or self.counts is None or bits > _MOST_BITS_TO_CUT or not self.counts.sum():
            return self.low, self.high
        if ranges == "percentile":
            return self._percentile(self.counts)
        return self._least_error(bits) if ranges == "mse" else (self.low, self.high)

    def grid(self, ranges: Ranges, *, bits: int = 8, signed: bool = False) -> Grid:
        """The grid that covers these values as far as `limits` says; 0.0 is always covered."""
        return spanning(*self.limits(ranges, bits=bits), bits=bits, signed=signed)

    def squared_error(self, grids: Sequence[Grid]) -> Tensor:
        """The mean squared rounding error of the histogram on each grid, in float64."""
        if self.counts is None:
            return torch.zeros(len(grids), dtype=torch.float64)
        centres = self.low + self._bin_width * (torch.arange(BINS, dtype=torch.float64) + 0.5)
        scales, zeros = ([getattr(grid, part)[0] for grid in grids] for part in ("scale", "zero_point"))
        # One grid with a step per row: all candidates at once.
        rows = Grid(grids[0].bits, grids[0].signed, tuple(scales), tuple(zeros), axis=0)
        rounded = rows.round(centres.expand(len(grids), -1)).double()
        return ((rounded - centres) ** 2 @ self.counts) / self.counts.sum()

    @property
    def _bin_width(self) -> float:
        return (self.high - self.low) / BINS

    def _percentile(self, counts: Tensor) -> tuple[float, float]:
        """The outer edges of the bins in which the tails end."""
        share = counts.cumsum(0) / counts.sum()
        first = int((share <= _TAIL).sum())
        last = int((share < 1 - _TAIL).sum())
        return self.low + self._bin_width * first, min(self.low + self._bin_width * (last + 1), self.high)

    def _least_error(self, bits: int) -> tuple[float, float]:
        """The best upper end for the whole lower side, then the best lower end for that one.

        The whole range is among the candidates, so the error is never above that of `min_max`.
        """
        highs = [self.high * share for share in _CUTS] if self.high > 0 else [self.high]
        high = self._best([(self.low, each) for each in highs], bits)[1]
        lows = [self.low * share for share in _CUTS] if self.low < 0 else [self.low]
        return self._best([(each, high) for each in lows], bits)

    def _best(self, ends: list[tuple[float, float]], bits: int) -> tuple[float, float]:
        errors = self.squared_error([affine(low, high, bits=bits) for low, high in ends])
        return ends[int(errors.argmin())]


def spanning(low: float, high: float, *, bits: int, signed: bool) -> Grid:
    """The activation grid between two numbers: affine, but with zero point 0 on 16 signed bits.

    So TFLite's 16x8 specification demands it; its kernels clamp at -32768.
    """
    if bits <= 8 or not signed:
        return affine(low, high, bits=bits, signed=signed)
    ends = symmetric(torch.tensor([max(abs(low), abs(high)) or 1.0]), axis=None, bits=bits)
    return Grid(bits, True, ends.scale, ends.zero_point)


def observe(
    folded: Folded, names: Collection[str], batches: Batches, *, counted: bool = True, run: Run = watch
) -> Mapping[str, Observed]:
    """What each value called in `names` was on the batches, with `counted` also how often.

    The network runs once, by `run`. Positions that do not count are left out. Of values of very many numbers, some
    millions spread evenly are counted. Raises TaskError when the inputs never vary, or when a value is NaN or infinite.
    """
    _check_inputs(batches)
    samples = sum(len(batch[0]) for batch in batches)
    sizes = {node.name: numbers_of(node) for node in folded.graph.nodes if node.name in names}
    seen = {name: Histogram(spacing(size * samples, _COUNTED, size)) for name, size in sizes.items()}

    def visit(name: str, value: Tensor, mask: Tensor | None) -> None:
        kept = counting(folded.positions, name, value, mask)
        if not kept.numel():
            return
        low, high = (float(end) for end in kept.aminmax())
        _check_finite(name, low, high)
        seen[name].add(kept if counted else kept.new_empty(0), low, high)

    run(folded.module, batches, *with_mask(folded.positions, names, visit))
    return {name: Observed(each.low, each.high, each.told() if counted else None) for name, each in seen.items()}


def _check_inputs(batches: Batches) -> None:
    """Refuses inputs that are one number throughout: no range can be read off them."""
    ends = [(float(low), float(high)) for low, high in (_ends(values) for values in zip(*batches, strict=True))]
    if ends and all(low == high for low, high in ends):
        raise TaskError(
            f"every number of the calibration inputs is {ends[0][0]:g}.",
            where="calibrate()",
            mend="let it yield typical inputs, such as some hundred samples of the training data.",
        )


def _ends(values: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The smallest and the largest number of one input over all batches."""
    return torch.stack([each.min() for each in values]).min(), torch.stack([each.max() for each in values]).max()


def _check_finite(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise TaskError(
            "the network computes NaN or infinity on the calibration inputs.",
            where=f"value {name}",
            mend="check the inputs and the weights of the network.",
        )


Activations = Literal["uint8", "int8", "int16"]
FORMATS: Mapping[str, tuple[int, bool]] = {"uint8": (8, False), "int8": (8, True), "int16": (16, True)}
# From here on, one outlier may take a bit from all other weights of its channel: cutting it is worth a search.
_FEW_BITS = 6
_SHARES = tuple(share / 100 for share in range(100, 39, -2))
_CREST = 16
_BYTES = 256
# Errors are float32 sums: a bound has to be clearly larger.
_SURELY = 1.01


def value_grids(
    folded: Folded, seen: Mapping[str, Observed], ranges: Ranges, activations: Activations
) -> dict[str, Grid]:
    """A grid for every value in `seen`, which must be the graph's points.

    Values that should share a grid get the one that spans all of theirs, save those that a ReLU cut where others are
    negative: only on a grid that begins at zero does the ReLU vanish into the rounding (ONNX Runtime fuses no other),
    and rescaling at the concatenation costs less. Values whose range the specification settles get that range, and what
    is in steps of a byte the grid whose integers the bytes are.
    """
    bits, signed = FORMATS[activations]
    limits = {name: each.limits(ranges, bits=bits) for name, each in seen.items()}
    groups = sharing(folded.graph)
    for group in groups:
        lows, highs = zip(*(limits[name] for name in group), strict=True)
        widest = (min(lows), max(highs))
        limits |= {name: widest for name in group if (limits[name][0] < 0) == (widest[0] < 0)}
    grids = {name: spanning(*ends, bits=bits, signed=signed) for name, ends in limits.items()}
    settled = {name: ends for name, ends in fixed_ranges(folded.graph).items() if name in grids}
    grids |= {name: _fixed(*ends, bits, signed=signed) for name, ends in settled.items()}
    alone = grids.keys() - {name for group in groups for name in group}
    return grids | {
        node.name: steps.like(grids[node.name]) for node, steps in in_steps(folded.graph) if node.name in alone
    }


def weight_grids(
    folded: Folded, values: Mapping[str, Grid], bits: Mapping[str, int], *, joint: bool = False
) -> dict[str, Grid]:
    """One grid for each weight in `bits`, with one step an output channel; layers that share a weight share it.

    It holds all weights; below 7 bits, as much of them as makes the channel's squared rounding error least. With
    `joint` all channels of a linear layer have the same step, as the first version of TFLite's specification had it.
    """
    limits: dict[str, Tensor] = {}
    axis_of = {layer.weight: layer.axis for layer in folded.layers(transposed=True)}
    for layer in folded.layers(transposed=True):
        name = layer.weight
        if name in bits:
            weight = folded.tensor(name)
            if not is_finite(weight):
                raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
            least = limits_for_bias(folded, layer.bias, values[layer.reads], bits[name])
            wide = torch.maximum(weight_spans(weight.transpose(0, layer.axis), bits[name]), least)
            if _normalizes_bytes(layer, weight) and layer.node.name in values:
                wide = torch.maximum(_limits_for_bytes(folded, layer, values[layer.node.name], bits[name]), least)
            if joint and traits_of(layer.node) & Trait.LINEAR:
                wide = wide.amax().expand(wide.shape)
            limits[name] = torch.maximum(limits.get(name, wide), wide)
    return {name: symmetric(limit, axis=axis_of[name], bits=bits[name]) for name, limit in limits.items()}


def _normalizes_bytes(layer: FoldedLayer, weight: Tensor) -> bool:
    """Whether each of its outputs is a byte times a number, and a number more."""
    return steps_at(layer.inputs) is not None and weight.numel() == len(weight) and bool(weight.all())


def _limits_for_bytes(folded: Folded, layer: FoldedLayer, grid: Grid, bits: int) -> Tensor:
    """The weight limits with which a normalization of bytes gives the integers that its real numbers are rounded to.

    A weight of one tap is exact in any step that goes into it a whole number of times. Of such steps, some round the
    bias so that no byte becomes another integer; where none does, the finest is taken.
    """
    top = (1 << bits - 1) - 1
    weights, counts = folded.tensor(layer.weight).detach().reshape(-1), torch.arange(top, top // 2, -1)
    biases = folded.tensor(layer.bias).detach() if layer.bias else torch.zeros_like(weights)
    each, limits = torch.arange(_BYTES), []
    for weight, bias in zip(weights, biases, strict=True):
        wanted = grid.quantize(each * weight + bias)
        steps = (weight.abs() / counts).double()
        sums = counts[:, None] * weight.sign() * each + (bias.double() / steps).round()[:, None]
        exact = (grid.quantize((sums * steps[:, None]).float()) == wanted).all(1)
        limits.append(steps[int(exact.int().argmax())] * top)
    return torch.stack(limits).float()


def table_grids(folded: Folded, values: Mapping[str, Grid], layers: Collection[str]) -> dict[str, Grid]:
    """A grid for each embedding's weight, 8 bits, but for those that `layers` names, which have their layer's.

    It is that of the embedding's values where these have one, so that files hold what they become; else a step a row.
    """
    found: dict[str, set[Grid | None]] = {}
    for lookup in folded.lookups():
        if lookup.weight not in layers:
            found.setdefault(lookup.weight, set()).add(values.get(lookup.node.name))
    return {name: _table_grid(folded.tensor(name), grids) for name, grids in found.items()}


def _table_grid(weight: Tensor, values: set[Grid | None]) -> Grid:
    one = next(iter(values)) if len(values) == 1 else None
    return one if one is not None and one.bits <= 8 else symmetric(weight_spans(weight, 8), axis=0)


def recurrent_grids(folded: Folded) -> dict[str, Grid]:
    """A grid for each matrix of a recurrent layer, 8 bits, with one step a row, which float16 holds.

    Such layers compute on real numbers: their matrices are stored as integers.
    """
    names = dict.fromkeys(name for layer in folded.recurrents() for name in layer.weights)
    return {name: _matrix_grid(name, folded.tensor(name)) for name in names}


def _matrix_grid(name: str, matrix: Tensor) -> Grid:
    if not is_finite(matrix):
        raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    grid = symmetric(weight_spans(matrix, 8), axis=0)
    return replace(grid, scale=tuple(halved(torch.tensor(grid.scale)).tolist()))


def limits_for_bias(folded: Folded, bias: str, inputs: Grid, bits: int) -> Tensor:
    """The least weight limits with which the bias of that name leaves 32 bits half free; zero without one.

    Its integers are steps of input step x weight step. A channel of nearly zero weights (batch norm switched it off)
    would otherwise lose its bias.
    """
    if not bias:
        return torch.zeros(())
    largest = (1 << bits - 1) - 1
    return folded.tensor(bias).abs() / (inputs.scale[0] * 2**30) * largest


def _fixed(low: float, high: float, bits: int, *, signed: bool) -> Grid:
    """TFLite's grid of sigmoid, softmax and tanh: steps of 1/256 and 1/128, or 1/32768 on 16 bits."""
    if bits > 8:
        return Grid(bits, signed, (2.0 ** (1 - bits),), (0,))
    scale = (high - low) / (1 << bits)
    return Grid(bits, signed, (scale,), (round(-low / scale) - ((1 << bits - 1) if signed else 0),))


def weight_spans(weight: Tensor, bits: int) -> Tensor:
    """The magnitude up to which the grid of each output channel, the first axis, reaches: below 7 bits not to all."""
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


@dataclass(frozen=True)
class Rounded:
    """Weights that lie on points of their grids, and biases that make up for the loss, named as in the folded graph."""

    tensors: Mapping[str, Tensor]
    grids: Mapping[str, Grid]
