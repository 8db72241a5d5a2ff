"""Observe: the ranges that values take on the calibration inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.grid import Grid, affine

Ranges = Literal["min_max", "percentile", "mse"]
Batches = Sequence[tuple[Tensor, ...]]
_BINS = 2048
_TAIL = 1e-5
# Shorter than a tenth, and a step of 8 bits would be finer than a bin of the histogram.
_SHARES = tuple(share / 100 for share in range(100, 9, -1))


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

    def grid(self, ranges: Ranges, *, bits: int = 8, signed: bool = False) -> Grid:
        """The grid that covers these values.

        All of them (`min_max`), all but one in 100,000 at either end (`percentile`), or as much as makes the mean
        squared rounding error least (`mse`); never more than was seen, save that 0.0 is always covered.
        """
        if ranges == "min_max" or self.is_constant or self.counts is None:
            return affine(self.low, self.high, bits=bits, signed=signed)
        low, high = self._percentile(self.counts) if ranges == "percentile" else self._least_error(bits, self.counts)
        return affine(low, high, bits=bits, signed=signed)

    def squared_error(self, grids: Sequence[Grid]) -> Tensor:
        """The mean squared rounding error of the histogram on each grid, in float64."""
        if self.counts is None:
            return torch.zeros(len(grids), dtype=torch.float64)
        centres = self.low + self._bin_width * (torch.arange(_BINS, dtype=torch.float64) + 0.5)
        scales, zeros = ([getattr(grid, part)[0] for grid in grids] for part in ("scale", "zero_point"))
        # One grid with a step per row: all candidates at once.
        rows = Grid(grids[0].bits, grids[0].signed, tuple(scales), tuple(zeros), axis=0)
        rounded = rows.round(centres.expand(len(grids), -1)).double()
        return ((rounded - centres) ** 2 @ self.counts) / self.counts.sum()

    @property
    def _bin_width(self) -> float:
        return (self.high - self.low) / _BINS

    def _percentile(self, counts: Tensor) -> tuple[float, float]:
        """The outer edges of the bins in which the tails end."""
        share = counts.cumsum(0) / counts.sum()
        first = int((share <= _TAIL).sum())
        last = int((share < 1 - _TAIL).sum())
        return self.low + self._bin_width * first, min(self.low + self._bin_width * (last + 1), self.high)

    def _least_error(self, bits: int, counts: Tensor) -> tuple[float, float]:
        """The best upper end for the whole lower side, then the best lower end for that one.

        The whole range is among the candidates, so the error is never above that of `min_max`.
        """
        if not counts.sum():
            return self.low, self.high
        highs = [self.high * share for share in _SHARES] if self.high > 0 else [self.high]
        high = self._best([(self.low, each) for each in highs], bits)[1]
        lows = [self.low * share for share in _SHARES] if self.low < 0 else [self.low]
        return self._best([(each, high) for each in lows], bits)

    def _best(self, ends: list[tuple[float, float]], bits: int) -> tuple[float, float]:
        errors = self.squared_error([affine(low, high, bits=bits) for low, high in ends])
        return ends[int(errors.argmin())]


def observe(
    network: fx.GraphModule, names: Collection[str], batches: Batches, *, counted: bool = True
) -> Mapping[str, Observed]:
    """What each value called in `names` was on the batches.

    With `counted` the network runs twice, first for the limits and then for the histograms between them. Raises
    TaskError when the inputs never vary, or when a value is NaN or infinite.
    """
    _check_inputs(batches)
    lows = dict.fromkeys(names, math.inf)
    highs = dict.fromkeys(names, -math.inf)

    def widen(name: str, value: Tensor) -> None:
        low, high = (float(end) for end in value.aminmax())
        _check_finite(name, low, high)
        lows[name], highs[name] = min(lows[name], low), max(highs[name], high)

    _run(network, batches, names, widen)
    if not counted:
        return {name: Observed(lows[name], highs[name]) for name in names}
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in names}

    def count(name: str, value: Tensor) -> None:
        counts[name] += torch.histc(value, _BINS, lows[name], highs[name]).double()

    _run(network, batches, [name for name in names if lows[name] < highs[name]], count)
    return {name: Observed(lows[name], highs[name], counts[name]) for name in names}


def _run(
    network: fx.GraphModule, batches: Batches, names: Collection[str], visit: Callable[[str, Tensor], None]
) -> None:
    watcher = _Watcher(network, frozenset(names), visit)
    with torch.no_grad():
        for batch in batches:
            watcher.run(*batch)


class _Watcher(fx.Interpreter):
    """Runs the graph and shows the wanted values to `visit`."""

    def __init__(self, network: fx.GraphModule, names: Collection[str], visit: Callable[[str, Tensor], None]) -> None:
        super().__init__(network)
        self._names, self._visit = names, visit

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        if n.name in self._names:
            self._visit(n.name, value)
        return value


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
