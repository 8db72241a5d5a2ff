"""Batch norm statistics, measured again after surgery."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

# Fewer samples than this estimate worse than what training left behind; more than the limit change nothing.
_FEWEST, _MOST, _BATCH = 64, 1024, 128
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def with_fresh_statistics(module: nn.Module, inputs: Sequence[tuple[Tensor, ...]]) -> nn.Module:
    """A copy of `module` whose batch norms hold the means and variances that they see on `inputs`.

    What earlier layers lost shifts the values of later ones; measuring them anew needs no labels and no gradients
    (EagleEye, Li et al. 2020). With few inputs the statistics stay as they are.
    """
    module = copy.deepcopy(module).eval()
    norms = [each for each in module.modules() if isinstance(each, _BATCH_NORMS) and each.track_running_stats]
    if not norms or sum(len(batch[0]) for batch in inputs) < _FEWEST:
        return module
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    with torch.no_grad():
        for batch in _batches(inputs):
            module(*batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return module.eval()


def _batches(inputs: Sequence[tuple[Tensor, ...]]) -> Iterator[tuple[Tensor, ...]]:
    """Equal batches, whatever the task's are: a batch of one sample has no variance."""
    joined = tuple(torch.cat(each)[:_MOST] for each in zip(*inputs, strict=True))
    count = max(1, len(joined[0]) // _BATCH)
    yield from zip(*(each.tensor_split(count) for each in joined), strict=True)
