"""Batch norm statistics, corrected after surgery."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from haversack.graph.run import Batches, joined
from haversack.model import Edits

# Fewer samples than this estimate worse than what training left behind; more than the limit change nothing.
_FEWEST, _MOST, _BATCH = 64, 256, 128
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def with_corrected_statistics(small: nn.Module, original: nn.Module, edits: Edits, inputs: Batches) -> nn.Module:
    """A copy of `small` whose batch norms expect what surgery made of the values before them.

    What earlier layers lost shifts the values of later ones; measuring statistics again needs no labels and no
    gradients (EagleEye, Li et al. 2020). Calibration inputs are not the training data with its augmentation, though, so
    only the change is taken from them: variances move by the ratio of `small` to `original`, and what training's means
    differ by from the measured ones is kept, in standard deviations. With few inputs, nothing is changed.
    """
    small = copy.deepcopy(small).eval()
    batches = list(_batches(inputs))
    if not batches:
        return small
    before, after = _measured(original, batches), _measured(small, batches)
    tensors, kept = dict(small.named_buffers()), edits.kept
    for name, found in after.items():
        if name not in before or name.endswith("running_var"):
            continue
        spread = f"{name.removesuffix('running_mean')}running_var"
        left = kept.get(name, {}).get(0)
        mean, variance = (each if left is None else each[list(left)] for each in (before[name], before[spread]))
        ratio = (after[spread] + _TINY) / (variance + _TINY)
        # A channel that has become constant has no deviation: taken over whole, its small one would be blown up.
        tensors[name].copy_(found + (tensors[name] - mean) * ratio.sqrt())
        tensors[spread] *= ratio
    return small


_TINY = 1e-5


def _measured(module: nn.Module, batches: Batches) -> dict[str, Tensor]:
    """The means and variances that the batch norms see, by the name of the buffer that would hold them."""
    module = copy.deepcopy(module).eval()
    norms = {
        path: each
        for path, each in module.named_modules()
        if isinstance(each, _BATCH_NORMS) and each.running_mean is not None
    }
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    with torch.no_grad():
        for batch in batches:
            module(*batch)
    found: dict[str, Tensor | None] = {}
    for path, norm in norms.items():
        found |= {f"{path}.running_mean": norm.running_mean, f"{path}.running_var": norm.running_var}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def _batches(inputs: Batches) -> Iterator[tuple[Tensor, ...]]:
    """Equal batches, whatever the task's are: a batch of one sample has no variance."""
    together = joined(inputs, _MOST)
    if len(together[0]) >= _FEWEST:
        count = max(1, len(together[0]) // _BATCH)
        yield from zip(*(each.tensor_split(count) for each in together), strict=True)
