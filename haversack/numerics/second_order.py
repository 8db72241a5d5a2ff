"""Second order: a network pruned at once, by what each removal costs and with all that is left making up for it.

No labels and no training: the calibration inputs say how much a layer's output errs (numerics/surgeon.py), and one
sweep refits what stays (numerics/sweep.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from haversack.graph.inference import tensor_of
from haversack.graph.observe import Batches, joined
from haversack.numerics.least_squares import Fit
from haversack.numerics.patches import channel_dim
from haversack.numerics.sparsity import Pattern, as_weight
from haversack.numerics.surgeon import refitted, removal_costs
from haversack.numerics.sweep import Sweep, SweptLayer
from haversack.progress import track

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
        costs = _costs(sweep.fit(layer, ridge=_RIDGE), weight, pattern)
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


def _costs(fit: Fit, weight: Tensor, pattern: Pattern) -> Tensor:
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
