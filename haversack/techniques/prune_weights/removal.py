"""Removal: weights go one after the other, the others taking over what each of them did.

Optimal Brain Surgeon (Hassibi and Stork 1993) on the squared output error of a layer, as in Optimal Brain Compression
(Frantar and Alistarh 2022): the error is a quadratic form of each row of weights, so that what a removal costs and how
the others make up for it are known exactly. No labels and no training: calibration inputs say how much a layer's output
errs, and one sweep refits what stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from haversack.calibration.least_squares import MOST_WORK, Fit, descended, refitted
from haversack.calibration.sweep import Sweep, SweptLayer
from haversack.graph.folded import Folded
from haversack.graph.ops import channel_dim
from haversack.graph.run import Batches, joined
from haversack.progress import track

# Of the columns that are left, the share that goes before costs are looked at again.
_SHARE = 0.05
# Problems are closed up when less than this share of their columns is left.
_CROWDED = 0.75
# Numbers of all curvatures that are worked on at once: what fits into the processor's cache is much faster.
_MOST_NUMBERS = 1 << 20
# Of larger layers: the share of what is left that goes in a stage, and the rounds of conjugate gradients.
_STAGE, _STAGE_ROUNDS = 0.1, 5


def removal_costs(fit: Fit, zeros: Tensor) -> Tensor:
    """What each weight's removal costs, in squared output error, when its turn comes: shape of `fit.best`, float64.

    Weights of a row go in the order of their costs, the cheapest first; numbers rise along that order, so that the
    lowest of them are what to remove however many shall go. `zeros` (True where there is no weight any longer) go
    first and cost nothing.

    In layers so large that this would take minutes, the smallest weights go a tenth at a time, the others refitted in
    between; on 64 rows of 576 columns the error was 1.29 times as large at half of the weights, 1.01 times at a fifth.
    """
    groups, rows, columns = fit.best.shape
    if groups * rows * columns**3 > MOST_WORK:
        return _Stages(fit, zeros).run()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fit.curvature))
    size = max(1, _MOST_NUMBERS // (groups * columns * columns))
    parts = [
        _Removal(fit.best[:, start : start + size], inverse, zeros[:, start : start + size]).run()
        for start in range(0, rows, size)
    ]
    return torch.cat(parts, 1)


class _Removal:
    """Rows that each lose as many weights in every round, and in the end all of them.

    `names` says which column each place holds: the places of dead columns are closed up now and then.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, zeros: Tensor) -> None:
        self._shape = weight.shape
        groups, rows, columns = weight.shape
        self._weight = weight.reshape(groups * rows, 1, columns)
        self._inverse, self._zeros = inverse.repeat_interleave(rows, 0), zeros.reshape(groups * rows, columns)
        self._names = torch.arange(columns).repeat(groups * rows, 1)
        self._alive, self._left = torch.ones_like(self._zeros), columns
        self._costs = torch.zeros(self._zeros.shape, dtype=torch.float64)
        self._highest = torch.full((groups * rows, 1), -1.0, dtype=torch.float64)

    def run(self) -> Tensor:
        """The cost of each weight (groups, rows, columns)."""
        while self._left:
            chosen = self._now().topk(max(1, int(self._left * _SHARE)), largest=False, sorted=True)
            self._note(chosen.indices, chosen.values)
            self._remove(chosen.indices)
        return self._costs.view(self._shape)

    def _now(self) -> Tensor:
        """What the removal of each weight costs now, all others making up for it; infinity for dead ones."""
        costs = self._weight.squeeze(1).square() / self._inverse.diagonal(dim1=1, dim2=2)
        return costs.masked_fill(self._zeros.gather(1, self._names), -1.0).masked_fill(~self._alive, torch.inf)

    def _remove(self, places: Tensor) -> None:
        """Takes the weights at some places out of each row; those that are left make up for them."""
        rows = _at(self._inverse, places, 1)
        passed = torch.linalg.solve(_at(rows, places, 2), rows)
        self._weight = torch.baddbmm(self._weight, _at(self._weight, places, 2), passed, alpha=-1)
        self._inverse = self._inverse.baddbmm_(rows.mT, passed, alpha=-1)
        self._alive.scatter_(1, places, False)
        self._left -= places.shape[1]
        if 0 < self._left < _CROWDED * self._alive.shape[1]:
            self._close_up()

    def _close_up(self) -> None:
        """Leaves out the places of dead columns."""
        alive = self._alive.nonzero()[:, 1].view(-1, self._left)
        self._names, self._alive = self._names.gather(1, alive), self._alive.gather(1, alive)
        self._weight = _at(self._weight, alive, 2)
        self._inverse = _at(_at(self._inverse, alive, 1), alive, 2).contiguous()

    def _note(self, places: Tensor, costs: Tensor) -> None:
        """Writes down costs that rise strictly along the order of removal."""
        rising = torch.cat([self._highest, costs], 1).cummax(1).values[:, 1:]
        steps = torch.arange(1, costs.shape[1] + 1, dtype=torch.float64)
        rising = rising + steps * (rising.abs() * 1e-12 + 1e-300)
        self._highest = rising[:, -1:]
        self._costs.scatter_(1, self._names.gather(1, places), rising)


class _Stages:
    """Weights that go in a few stages, the smallest first; after each, what is left is refitted."""

    def __init__(self, fit: Fit, zeros: Tensor) -> None:
        self._fit, self._weight, self._zeros = fit, fit.best, zeros
        self._alive = torch.ones_like(zeros)
        self._costs = torch.zeros(zeros.shape, dtype=torch.float64)
        self._highest = torch.zeros((*zeros.shape[:2], 1), dtype=torch.float64)
        self._cost = torch.zeros_like(self._highest)

    def run(self) -> Tensor:
        """The cost of each weight's removal (groups, rows, columns)."""
        left = self._alive.shape[2]
        while left:
            count = max(1, int(left * _STAGE))
            self._remove(count)
            left -= count
        return self._costs

    def _remove(self, count: int) -> None:
        sizes = self._weight.square().masked_fill(self._zeros, -1.0).masked_fill(~self._alive, torch.inf)
        chosen = sizes.topk(count, largest=False, sorted=True)
        self._alive.scatter_(2, chosen.indices, False)
        self._weight = descended(self._fit, self._alive, self._weight, _STAGE_ROUNDS)
        cost = self._fit.cost(self._weight).view(*self._alive.shape[:2], 1)
        steps = 1 + 1e-12 * torch.arange(1, count + 1, dtype=torch.float64)
        rising = torch.maximum(self._highest, (cost - self._cost) / count) * steps + 1e-300 * steps
        self._highest, self._cost = rising[..., -1:], cost
        self._costs.scatter_(2, chosen.indices, torch.where(chosen.values < 0, -1.0, rising))


def _at(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """Of each problem's matrix the rows (dimension 1) or columns (2) at its own places."""
    other = values.shape[3 - dim]
    index = places.unsqueeze(3 - dim)
    return values.gather(dim, index.expand(-1, *((-1, other) if dim == 1 else (other, -1))))


_RIDGE = 1e-2
_SAMPLES = 256


@torch.no_grad()
def second_order_scores(
    folded: Folded, batches: Batches, chosen: Sequence[SweptLayer], seed: int = 0
) -> dict[str, Tensor]:
    """What the removal of each weight costs the network's outputs, by name of the weight, in its shape; float64.

    A layer's own squared error (Frantar and Alistarh 2022), row by row times what an error of that output channel does
    to the network's outputs: the mean square of their gradient, along random directions.
    """
    weighed = _importance(folded.module, batches, {layer.node.name for layer in chosen}, seed)
    sweep = Sweep.over(folded, folded.module, batches, chosen)
    found: dict[str, Tensor] = {}
    for layer in track(chosen, "second order", len(chosen)):
        weight, fit = folded.tensor(layer.weight), sweep.fit(layer, ridge=_RIDGE)
        costs = removal_costs(fit, fit.start == 0).view(weight.shape)
        found[layer.weight] = costs * weighed[layer.node.name].view(-1, *[1] * (weight.dim() - 1))
    return found


@torch.no_grad()
def second_order_weights(
    folded: Folded, batches: Batches, chosen: Sequence[SweptLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights that are zero where their mask is False, and biases, with which the network stays closest to itself."""
    sweep = Sweep.over(folded, folded.module, batches, chosen)
    for layer in track(chosen, "refitting", len(chosen)):
        weight, fit = folded.tensor(layer.weight), sweep.fit(layer, ridge=_RIDGE)
        kept = masks[layer.weight].reshape(fit.best.shape)
        sweep.choose(layer, refitted(fit, kept).to(weight.dtype), fit)
    return sweep.tensors


def _importance(network: fx.GraphModule, batches: Batches, names: Collection[str], seed: int) -> dict[str, Tensor]:
    """What an error of one in each output channel, at one position, does to the squared outputs; by node."""
    inputs = joined(batches, _SAMPLES)
    run = _Gradients(network, names)
    with torch.enable_grad():
        outputs = run.run(*inputs)
        whole = torch.cat([each.flatten(1) for each in (outputs if isinstance(outputs, tuple) else (outputs,))], 1)
        signs = torch.randint(0, 2, whole.shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        (whole * signs).sum().backward()
    found = {}
    for name, (value, channels) in run.found.items():
        gradient = torch.zeros_like(value) if value.grad is None else value.grad
        squares = gradient.double().square().movedim(channels, 1)
        found[name] = squares.reshape(*squares.shape[:2], -1).sum(2).mean(0)
    return found


class _Gradients(fx.Interpreter):
    """Runs the graph and keeps some nodes' values, which then get gradients."""

    def __init__(self, network: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(network)
        self.names, self.found = names, dict[str, tuple[Tensor, int]]()

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - torch's signature
        value = super().run_node(n)
        if n.name not in self.names:
            return value
        if not value.requires_grad:
            value.requires_grad_()
        value.retain_grad()
        self.found[n.name] = (value, channel_dim(n))
        return value
