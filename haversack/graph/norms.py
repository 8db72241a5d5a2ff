"""Norms: batch norms that still normalise after weights were chosen on the folded graph, so that training can go on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from haversack.graph.fold import Norm
from haversack.graph.inference import inference
from haversack.graph.named_tensors import named_tensors
from haversack.graph.settle import settle
from haversack.model import Model

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


_SCALED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# A row that batch norm nearly switches off would have to be blown up.
_LEAST_SCALE = 1e-2


def settled_to_train(model: Model, tensors: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, ...]]) -> Model:
    """The model whose folded graph has `tensors` for its weights and biases (see `settle`), fit to be trained.

    `settle` leaves batch norms that do nothing. Here each kernel goes back to the size that it had before its batch
    norm was folded into it, on which the effective learning rate depends (a ResNet's folded kernels are a third as
    large, and would learn nine times as fast), and the norms measure their statistics on `batches`.
    """
    norms: Mapping[str, Norm] = inference(model).meta["norms"]
    before = named_tensors(model.module)
    settled = settle(model, tensors)
    with torch.no_grad():
        for weight, norm in norms.items():
            if norm.weight is not None and (weight in tensors or norm.folded_bias in tensors):
                slope = before[norm.weight] / (before[norm.variance] + norm.epsilon).sqrt()
                _scale_up(settled.module, weight, norm, slope)
    return replace(settled, module=with_measured_norms(settled.module, batches))


def _scale_up(module: nn.Module, weight: str, norm: Norm, slope: Tensor) -> None:
    """Divides the rows of a kernel by `slope`, and lets the batch norm, which multiplied by 1, multiply by it."""
    layer = module.get_submodule(weight.rpartition(".")[0])
    if not isinstance(layer, _SCALED) or norm.weight is None or len(slope) != len(layer.weight):
        return
    slope = torch.where(slope.abs() < _LEAST_SCALE, torch.ones_like(slope), slope)
    layer.weight /= slope.view(-1, *[1] * (layer.weight.dim() - 1))
    if layer.bias is not None:
        layer.bias /= slope
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    tensors[norm.mean].div_(slope)
    tensors[norm.weight].mul_(slope)


def with_measured_norms(module: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> nn.Module:
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
