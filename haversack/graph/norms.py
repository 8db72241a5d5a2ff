"""Norms: batch norms that still normalise after weights were chosen on the folded graph, so that training can go on."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from haversack.graph.observe import Batches
from haversack.graph.settle import settle
from haversack.model import Model

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def settled_to_train(model: Model, tensors: Mapping[str, Tensor], batches: Batches) -> Model:
    """The model whose folded graph has `tensors` for its weights and biases (see `settle`), fit to be trained.

    Each kernel goes back to the size that it had before its batch norm was folded into it, on which the effective
    learning rate depends (a ResNet's folded kernels are a third as large, and would learn nine times as fast), and all
    norms measure their statistics on `batches`.
    """
    settled = settle(model, tensors, exact=False)
    return replace(settled, module=with_measured_norms(settled.module, batches))


def with_measured_norms(module: nn.Module, batches: Batches) -> nn.Module:
    """A copy of `module` whose batch norms hold the means and variances that they see on `batches`.

    Their scales and shifts take the difference up, so that in evaluation mode nothing changes; but in training, where
    each batch brings its own statistics, the network is now the same one too. Norms without scale and shift, and those
    that see nothing, stay as they are.
    """
    module = copy.deepcopy(module).eval()
    seen: dict[BatchNorm, _Sums] = {}
    hooks = [
        each.register_forward_pre_hook(lambda norm, values: seen.setdefault(norm, _Sums()).add(values[0]))
        for each in module.modules()
        if isinstance(each, BatchNorm) and each.affine and each.running_mean is not None
    ]
    with torch.no_grad():
        for batch in batches:
            module(*batch)
        for hook in hooks:
            hook.remove()
        for norm, sums in seen.items():
            _take_over(norm, sums)
    return module


class _Sums:
    """The number of values a channel, their sums and the sums of their squares."""

    def __init__(self) -> None:
        self.count, self.sums, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, values: Tensor) -> None:
        """Counts a batch in."""
        rows = values.double().transpose(0, 1).flatten(1)
        self.count += rows.shape[1]
        self.sums, self.squares = self.sums + rows.sum(1), self.squares + rows.square().sum(1)


def _take_over(norm: BatchNorm, sums: _Sums) -> None:
    if norm.running_mean is None or norm.running_var is None:
        return
    seen_mean = sums.sums / sums.count
    seen_variance = (sums.squares / sums.count - seen_mean.square()).clamp_min(0)
    slope = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_((slope * (seen_mean - norm.running_mean)).to(norm.bias.dtype))
    norm.weight.copy_(slope * (seen_variance + norm.eps).sqrt())
    norm.running_mean.copy_(seen_mean)
    norm.running_var.copy_(seen_variance)
