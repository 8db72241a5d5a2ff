"""Observe: the ranges that values take on the calibration inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from haversack.errors import TaskError
from haversack.grid import Grid, affine

Ranges = Literal["min_max", "percentile", "mse"]
_BINS = 2048


@dataclass(frozen=True)
class Observed:
    """Smallest and largest value seen, and how often each of 2048 equal bins between them was hit."""

    low: float
    high: float
    counts: Tensor

    def centres(self) -> Tensor:
        """The values in the middle of the bins."""
        width = (self.high - self.low) / len(self.counts)
        return self.low + width * (torch.arange(len(self.counts), dtype=torch.float64) + 0.5)

    def grid(self, ranges: Ranges, *, bits: int, signed: bool) -> Grid:
        """The grid for these values: all of them (`min_max`), all but one in 100,000 (`percentile`), or the range
        with the least mean squared rounding error (`mse`).
        """  # noqa: D205 - one sentence
        if ranges == "min_max":
            return affine(self.low, self.high, bits=bits, signed=signed)
        if ranges == "percentile":
            low, high = self._percentile(1e-5)
            return affine(low, high, bits=bits, signed=signed)
        return self._least_error(bits, signed)

    def _percentile(self, tail: float) -> tuple[float, float]:
        share = self.counts.cumsum(0) / self.counts.sum()
        centres = self.centres()
        first = int(torch.searchsorted(share, tail))
        last = min(int(torch.searchsorted(share, 1 - tail)), len(centres) - 1)
        return float(centres[first]) if first else self.low, float(centres[last])

    def _least_error(self, bits: int, signed: bool) -> Grid:
        values, weights = self.centres(), self.counts / self.counts.sum()
        candidates = [
            affine(self.low * share, self.high * share, bits=bits, signed=signed)
            for share in torch.linspace(0.4, 1.0, 61).tolist()
        ]
        errors = [float((weights * (grid.round(values).double() - values) ** 2).sum()) for grid in candidates]
        return candidates[min(range(len(errors)), key=errors.__getitem__)]


def observe(
    network: fx.GraphModule, names: Collection[str], batches: Iterable[tuple[Tensor, ...]]
) -> Mapping[str, Observed]:
    """What each value called in `names` was on the batches; two passes, one batch in memory at a time."""
    batches = list(batches)
    low = dict.fromkeys(names, float("inf"))
    high = dict.fromkeys(names, float("-inf"))

    def widen(name: str, value: Tensor) -> None:
        low[name] = min(low[name], float(value.min()))
        high[name] = max(high[name], float(value.max()))

    _run(network, batches, names, widen)
    _check(low, high)
    counts = {name: torch.zeros(_BINS, dtype=torch.float64) for name in names}

    def count(name: str, value: Tensor) -> None:
        if low[name] < high[name]:
            counts[name] += torch.histc(value.float(), _BINS, low[name], high[name]).double()

    _run(network, batches, names, count)
    return {name: Observed(low[name], high[name], counts[name]) for name in names}


def _run(network: fx.GraphModule, batches, names, visit) -> None:
    watcher = _Watcher(network, frozenset(names), visit)
    with torch.no_grad():
        for batch in batches:
            watcher.run(*batch)


class _Watcher(fx.Interpreter):
    """Runs the graph and shows the wanted values to `visit`."""

    def __init__(self, network, names, visit) -> None:
        super().__init__(network)
        self._names, self._visit = names, visit

    def run_node(self, n: fx.Node):
        value = super().run_node(n)
        if n.name in self._names:
            self._visit(n.name, value)
        return value


def _check(low: Mapping[str, float], high: Mapping[str, float]) -> None:
    for name in low:
        if not (low[name] > float("-inf") and high[name] < float("inf")):
            raise TaskError(
                "the network computes NaN or infinity on the calibration inputs.",
                where=f"value {name}",
                mend="check the inputs and the weights of the network.",
            )
