"""Importance: how much each channel of each group matters, and what it is read off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from haversack.batches import Batch, Outputs, mapped, unpack
from haversack.channels.groups import ChannelGroup, Member
from haversack.errors import RecipeError, TrainingError
from haversack.task import Task

Importance = Literal["l1", "l2", "fpgm", "bn_scale", "taylor", "second_order"]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """A group's channels, the first to go first; `losses[n]` is what it costs that the first n are gone."""

    order: tuple[int, ...]
    losses: tuple[float, ...]

    @classmethod
    def of(cls, scores: Scores) -> Ranking:
        """The least important channels first; each costs its score."""
        order = np.argsort(scores, kind="stable")
        return cls(tuple(order.tolist()), (0.0, *np.cumsum(scores[order]).tolist()))

    def left(self, count: int) -> list[int]:
        """The `count` channels that go last, in their own order."""
        return sorted(self.order[len(self.order) - count :])


# Molchanov's squares are taken a mini-batch: small ones keep effects of opposite sign from cancelling out.
_SAMPLES, _MINI_BATCH = 512, 16
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def l1(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Scores]:
    """The sum of the magnitudes of all kernel slices that a channel takes with it (Li et al. 2017)."""
    return [_array(_kernels(module, group).abs().sum(1)) for group in groups]


def l2(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Scores]:
    """The norm of all kernel slices that a channel takes with it (Li et al. 2017, over coupled layers)."""
    return [_array(_kernels(module, group).norm(dim=1)) for group in groups]


def fpgm(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Scores]:
    """How far a channel's kernels lie from those of all others together (geometric median, He et al. 2019).

    What lies in the middle is what the others can stand in for. Kernels are the slices that a channel takes with it of
    every layer that makes or reads it.
    """
    return [_array(torch.cdist(kernels, kernels).sum(1)) for kernels in (_kernels(module, each) for each in groups)]


def bn_scale(module: nn.Module, groups: Sequence[ChannelGroup]) -> list[Scores]:
    """The magnitude of the batch norm scales of a channel (network slimming, Liu et al. 2017).

    Groups without a batch norm are scored by their kernels' norms. Raises RecipeError where there is no batch norm.
    """
    tensors = dict(module.named_parameters(remove_duplicate=False))
    scales = {
        f"{path}.weight"
        for path, layer in module.named_modules(remove_duplicate=False)
        if isinstance(layer, _BATCH_NORMS) and layer.weight is not None
    }
    if not scales:
        raise RecipeError("the network has no batch norm, so its scales rank nothing.", mend="use importance taylor.")
    scores = []
    for group in groups:
        found = [member for member in group.members if member.tensor in scales]
        sums = [_along(tensors[member.tensor].detach().abs(), member) for member in found]
        scores.append(_array(torch.stack(sums).sum(0) if sums else _kernels(module, group).norm(dim=1)))
    return scores


def taylor(module: nn.Module, groups: Sequence[ChannelGroup], task: Task, seed: int) -> list[Scores]:
    """The squared first-order change of the loss when a channel is removed (Molchanov et al. 2019).

    Removing a channel sets the columns that read it to zero, so the change is the sum of gradient times weight over
    those columns, in evaluation mode, over a few hundred training samples drawn with `seed`.
    """
    tensors = dict(module.named_parameters(remove_duplicate=False))
    members = [[member for member in group.members if member.reads] or list(group.members) for group in groups]
    members = [[member for member in found if member.tensor in tensors] for found in members]
    totals = [torch.zeros(group.size, dtype=torch.float64) for group in groups]
    for gradients in _gradients(module, task, seed):
        for place, found in enumerate(members):
            change = [_along(tensors[member.tensor].detach() * gradients[member.tensor], member) for member in found]
            totals[place] += torch.stack(change).sum(0).double() ** 2
    return [_array(total) for total in totals]


def _gradients(module: nn.Module, task: Task, seed: int) -> Iterator[Mapping[str, Tensor]]:
    """The loss's gradients for each mini-batch; the module's own gradients stay as they are."""
    named = dict(module.named_parameters(remove_duplicate=False))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batches = list(_mini_batches(task.epoch()))
    if not batches:
        raise TrainingError("train() yielded no batches.", mend="let train() yield (inputs, target) batches.")
    parameters = {name: parameter.detach().requires_grad_() for name, parameter in named.items()}
    for inputs, target in batches:
        loss = task.error(torch.func.functional_call(module, parameters, inputs), target)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        yield {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(parameters.items(), found, strict=True)
        }


def _mini_batches(batches: Iterable[Batch]) -> Iterator[tuple[tuple[Tensor, ...], Outputs]]:
    return islice(_pieces(batches), _SAMPLES // _MINI_BATCH)


def _pieces(batches: Iterable[Batch]) -> Iterator[tuple[tuple[Tensor, ...], Outputs]]:
    for batch in batches:
        inputs, target = unpack(batch)
        for start in range(0, len(inputs[0]), _MINI_BATCH):
            piece = slice(start, start + _MINI_BATCH)
            yield tuple(value[piece] for value in inputs), mapped(lambda each, piece=piece: each[piece], target)


def _kernels(module: nn.Module, group: ChannelGroup) -> Tensor:
    """All numbers of the kernels that a channel takes with it, one row a channel; biases and norms are no kernels."""
    tensors = dict(module.named_parameters(remove_duplicate=False))
    found = [each for each in group.members if each.tensor in tensors and tensors[each.tensor].dim() > 1]
    rows = [torch.zeros(group.size, 0, dtype=torch.float64)]
    for each in found:
        taken = tensors[each.tensor].detach().double().movedim(each.dim, 0)[torch.tensor(each.indices)]
        rows.append(taken.flatten(1))
    return torch.cat(rows, 1)


def _along(values: Tensor, member: Member) -> Tensor:
    """The sum of `values` over each channel's slices."""
    others = [dim for dim in range(values.dim()) if dim != member.dim]
    line = values.sum(others) if others else values
    return line[torch.tensor(member.indices)].sum(1)


def _array(scores: Tensor) -> Scores:
    array: Scores = scores.detach().double().numpy()
    return array
