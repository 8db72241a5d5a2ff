"""Removal: weights go one after the other, the others taking over what each of them did.

Optimal Brain Surgeon (Hassibi and Stork 1993) on the squared output error of a layer, as in Optimal Brain Compression
(Frantar and Alistarh 2022): the error is a quadratic form of each row of weights, so that what a removal costs and how
the others make up for it are known exactly. No labels and no training: calibration inputs say how much a layer's output
errs, and one sweep refits what stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from haversack.calibration.least_squares import MOST_WORK, Fit, descended, refitted
from haversack.calibration.patches import channel_dim
from haversack.calibration.sweep import Sweep, SweptLayer
from haversack.graph.folded import tensor_of
from haversack.graph.run import Batches, joined
from haversack.progress import track
from haversack.techniques.prune_weights.patterns import Pattern, as_weight

# Of the columns that are left, the share that goes before costs are looked at again.
_SHARE = 0.05
# Problems are closed up when less than this share of their columns is left.
_CROWDED = 0.75
# Numbers of all curvatures that are worked on at once: what fits into the processor's cache is much faster.
_MOST_NUMBERS = 1 << 20
# Of larger layers: the share of what is left that goes in a stage, and the rounds of conjugate gradients.
_STAGE, _STAGE_ROUNDS = 0.1, 5


def removal_costs(fit: Fit, pattern: Pattern, zeros: Tensor) -> Tensor:
    """What each weight's removal costs, in squared output error, when its turn comes: shape of `fit.best`, float64.

    Weights of a row go in the order of their costs, the cheapest first; numbers rise along that order, so that the
    lowest of them are what to remove however many shall go. `zeros` (True where there is no weight any longer) go
    first and cost nothing. Columns lie channel by channel, as `Pattern` wants them; a block's weights cost the same.

    In layers so large that this would take minutes, the smallest weights go a tenth at a time, the others refitted in
    between; on 64 rows of 576 columns the error was 1.29 times as large at half of the weights, 1.01 times at a fifth.
    """
    groups, rows, columns = fit.best.shape
    if groups * rows * columns**3 > MOST_WORK:
        return _Stages(fit, pattern, zeros).run()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(fit.curvature))
    size = max(pattern.rows, _MOST_NUMBERS // (groups * columns * columns) // pattern.rows * pattern.rows)
    parts = [
        _costs(fit.best[:, start : start + size], inverse, zeros[:, start : start + size], pattern)
        for start in range(0, rows, size)
    ]
    return torch.cat(parts, 1)


def _costs(weight: Tensor, inverse: Tensor, zeros: Tensor, pattern: Pattern) -> Tensor:
    """`removal_costs` of some rows."""
    groups, rows, columns = weight.shape
    problems = weight.reshape(-1, pattern.rows, columns)
    each = inverse.repeat_interleave(rows // pattern.rows, 0)
    gone = zeros.reshape(-1, pattern.rows, columns // pattern.columns, pattern.columns).all(3).all(1)
    ordered = _Removal(problems, each, gone, pattern).run()
    blocks = ordered.repeat_interleave(pattern.columns, 1).unsqueeze(1).expand(-1, pattern.rows, -1)
    return blocks.reshape(groups, rows, columns)


class _Removal:
    """Problems of a few rows each that lose the same columns; in every round each loses as many blocks.

    `names` says which block each place holds: the places of dead blocks are closed up now and then.
    """

    def __init__(self, weight: Tensor, inverse: Tensor, gone: Tensor, pattern: Pattern) -> None:
        self._weight, self._inverse, self._gone, self._pattern = weight, inverse, gone, pattern
        self._names = torch.arange(gone.shape[1]).repeat(len(gone), 1)
        self._alive, self._left = torch.ones_like(gone), gone.shape[1]
        self._costs = torch.zeros(gone.shape, dtype=torch.float64)
        self._highest = torch.full((len(gone), 1), -1.0, dtype=torch.float64)

    def run(self) -> Tensor:
        """The cost of each block (problems, blocks)."""
        if self._pattern.of:
            self._until(self._left * self._pattern.kept // self._pattern.of, grouped=True)
        self._until(0, grouped=False)
        return self._costs

    def _until(self, least: int, *, grouped: bool) -> None:
        while self._left > least:
            count = min(self._left - least, max(1, int(self._left * _SHARE)))
            costs = self._now()
            if grouped:
                costs, count = self._one_a_group(costs, count)
            chosen = costs.topk(count, largest=False, sorted=True)
            self._note(chosen.indices, chosen.values)
            self._remove(chosen.indices)

    def _now(self) -> Tensor:
        """What the removal of each block costs now, all others making up for it; infinity for dead ones."""
        count, width = self._alive.shape[1], self._pattern.columns
        blocks = self._inverse.view(-1, count, width, count, width).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        weight = self._weight.view(len(blocks), -1, count, width).permute(0, 2, 3, 1)
        if width == 1:
            costs = weight.square().sum((2, 3)) / blocks[..., 0, 0]
        else:
            lively = torch.where(self._alive[..., None, None], blocks, torch.eye(width, dtype=blocks.dtype))
            costs = (weight * torch.linalg.solve(lively, weight)).sum((2, 3))
        return costs.masked_fill(self._gone.gather(1, self._names), -1.0).masked_fill(~self._alive, torch.inf)

    def _one_a_group(self, costs: Tensor, count: int) -> tuple[Tensor, int]:
        """The costs of the cheapest block of each group that may lose one, all others infinite; how many to take."""
        of = self._pattern.of
        whole = torch.full(self._costs.shape, torch.inf, dtype=torch.float64).scatter(1, self._names, costs)
        groups = whole.view(len(whole), -1, of)
        full = groups.isfinite().sum(2, keepdim=True) <= self._pattern.kept
        cheapest = torch.zeros_like(groups, dtype=torch.bool).scatter(2, groups.argmin(2, keepdim=True), ~full)
        allowed = cheapest.view(len(whole), -1).gather(1, self._names)
        return costs.masked_fill(~allowed, torch.inf), min(count, int((~full).sum(1).min()))

    def _remove(self, places: Tensor) -> None:
        """Takes the blocks at some places out of each problem; the weights that are left make up for them."""
        lost = (places.unsqueeze(-1) * self._pattern.columns + torch.arange(self._pattern.columns)).flatten(1)
        rows = _at(self._inverse, lost, 1)
        passed = torch.linalg.solve(_at(rows, lost, 2), rows)
        self._weight = torch.baddbmm(self._weight, _at(self._weight, lost, 2), passed, alpha=-1)
        self._inverse = self._inverse.baddbmm_(rows.mT, passed, alpha=-1)
        self._alive.scatter_(1, places, False)
        self._left -= places.shape[1]
        if 0 < self._left < _CROWDED * self._alive.shape[1]:
            self._close_up()

    def _close_up(self) -> None:
        """Leaves out the places of dead blocks."""
        blocks = self._alive.nonzero()[:, 1].view(-1, self._left)
        columns = (blocks.unsqueeze(-1) * self._pattern.columns + torch.arange(self._pattern.columns)).flatten(1)
        self._names, self._alive = self._names.gather(1, blocks), self._alive.gather(1, blocks)
        self._weight = _at(self._weight, columns, 2)
        self._inverse = _at(_at(self._inverse, columns, 1), columns, 2).contiguous()

    def _note(self, places: Tensor, costs: Tensor) -> None:
        """Writes down costs that rise strictly along the order of removal."""
        rising = torch.cat([self._highest, costs], 1).cummax(1).values[:, 1:]
        steps = torch.arange(1, costs.shape[1] + 1, dtype=torch.float64)
        rising = rising + steps * (rising.abs() * 1e-12 + 1e-300)
        self._highest = rising[:, -1:]
        self._costs.scatter_(1, self._names.gather(1, places), rising)


class _Stages:
    """Blocks that go in a few stages, the smallest first; after each, what is left is refitted."""

    def __init__(self, fit: Fit, pattern: Pattern, zeros: Tensor) -> None:
        groups, rows, columns = fit.best.shape
        self._fit, self._pattern, self._weight = fit, pattern, fit.best
        self._shape = (groups, rows // pattern.rows, pattern.rows, columns // pattern.columns, pattern.columns)
        self._gone = zeros.view(self._shape).all(4).all(2)
        self._alive = torch.ones_like(self._gone)
        self._costs = torch.zeros(self._gone.shape, dtype=torch.float64)
        self._highest = torch.zeros((*self._gone.shape[:2], 1), dtype=torch.float64)
        self._cost = torch.zeros_like(self._highest)

    def run(self) -> Tensor:
        """The cost of each weight's removal (groups, rows, columns)."""
        blocks = left = self._alive.shape[2]
        least = blocks * self._pattern.kept // self._pattern.of if self._pattern.of else 0
        while left:
            least = least if left > least else 0
            count = min(left - least, max(1, int(left * _STAGE)))
            self._remove(count, grouped=least > 0)
            left -= count
        return self._whole(self._costs)

    def _remove(self, count: int, *, grouped: bool) -> None:
        sizes = self._weight.view(self._shape).square().sum((2, 4)).masked_fill(self._gone, -1.0)
        sizes = sizes.masked_fill(~self._alive, torch.inf)
        if grouped:
            order = (
                sizes.masked_fill(~self._alive, -2.0).unflatten(2, (-1, self._pattern.of)).argsort(3, descending=True)
            )
            best = torch.zeros_like(order, dtype=torch.bool).scatter(3, order[..., : self._pattern.kept], True)
            sizes = sizes.masked_fill(best.flatten(2), torch.inf)
        chosen = sizes.topk(count, largest=False, sorted=True)
        self._alive.scatter_(2, chosen.indices, False)
        self._weight = descended(self._fit, self._whole(self._alive), self._weight, _STAGE_ROUNDS)
        cost = self._fit.cost(self._weight).view(*self._shape[:3]).sum(2).unsqueeze(2)
        steps = 1 + 1e-12 * torch.arange(1, count + 1, dtype=torch.float64)
        rising = torch.maximum(self._highest, (cost - self._cost) / count) * steps + 1e-300 * steps
        self._highest, self._cost = rising[..., -1:], cost
        self._costs.scatter_(2, chosen.indices, torch.where(chosen.values < 0, -1.0, rising))

    def _whole(self, blocks: Tensor) -> Tensor:
        """Numbers of blocks as numbers of weights."""
        return blocks.repeat_interleave(self._pattern.rows, 1).repeat_interleave(self._pattern.columns, 2)


def _at(values: Tensor, places: Tensor, dim: int) -> Tensor:
    """Of each problem's matrix the rows (dimension 1) or columns (2) at its own places."""
    other = values.shape[3 - dim]
    index = places.unsqueeze(3 - dim)
    return values.gather(dim, index.expand(-1, *((-1, other) if dim == 1 else (other, -1))))


_RIDGE = 1e-2
_SAMPLES = 256


@torch.no_grad()
def second_order_scores(
    network: fx.GraphModule, batches: Batches, chosen: Sequence[SweptLayer], pattern: Pattern, seed: int = 0
) -> dict[str, Tensor]:
    """What the removal of each weight costs the network's outputs, by name of the weight, in its shape; float64.

    A layer's own squared error (Frantar and Alistarh 2022), row by row times what an error of that output channel does
    to the network's outputs: the mean square of their gradient, along random directions.
    """
    weighed = _importance(network, batches, {layer.node.name for layer in chosen}, seed)
    sweep = Sweep(network, network, batches, chosen)
    found: dict[str, Tensor] = {}
    for layer in track(chosen, "second order", len(chosen)):
        weight = tensor_of(network, layer.weight)
        costs = _pattern_costs(sweep.fit(layer, ridge=_RIDGE), weight, pattern)
        found[layer.weight] = costs * weighed[layer.node.name].view(-1, *[1] * (weight.dim() - 1))
    return found


@torch.no_grad()
def second_order_weights(
    network: fx.GraphModule, batches: Batches, chosen: Sequence[SweptLayer], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Weights that are zero where their mask is False, and biases, with which the network stays closest to itself."""
    sweep = Sweep(network, network, batches, chosen)
    for layer in track(chosen, "refitting", len(chosen)):
        weight, fit = tensor_of(network, layer.weight), sweep.fit(layer, ridge=_RIDGE)
        kept = masks[layer.weight].reshape(fit.best.shape)
        sweep.choose(layer, refitted(fit, kept).to(weight.dtype), fit)
    return sweep.tensors


def _pattern_costs(fit: Fit, weight: Tensor, pattern: Pattern) -> Tensor:
    """The costs of a layer's weights, in the weight's shape."""
    order = torch.arange(weight[0].numel()).view(weight.shape[1], -1).T.flatten()
    curvature = fit.curvature[:, order][:, :, order]
    pixels = replace(fit, start=fit.start[..., order], best=fit.best[..., order], curvature=curvature)
    if fit.best.shape[1] % pattern.rows:
        pattern = replace(pattern, rows=1)  # a block that spans groups of channels: each row by itself
    costs = removal_costs(pixels, pattern, pixels.start == 0)
    return as_weight(costs.reshape(len(weight), -1), weight)


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
