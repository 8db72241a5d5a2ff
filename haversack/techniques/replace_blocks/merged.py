"""Merged: blocks that run as the one convolution they amount to, so that they train as fast as the original.

A grouped convolution and a 1 x 1 behind it are linear: their product is a kernel. On processors, gradients of grouped
convolutions take several times as long as those of the dense one, whatever they save in multiplications.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Convolution = nn.Conv1d | nn.Conv2d


class MergedBlock(nn.Sequential):
    """The layers of a grouped block, whose product is formed anew each time; tensors are named as in the sequence."""

    def forward(self, x: Tensor) -> Tensor:
        """What the layers give one after the other."""
        spread, mix = cast("Convolution", self[0]), cast("Convolution", self[-1])
        convolve = F.conv1d if isinstance(spread, nn.Conv1d) else F.conv2d
        weight = _product(spread, mix)
        return convolve(x, weight, mix.bias, spread.stride, spread.padding, spread.dilation)


def merged(module: nn.Module, paths: Iterable[str]) -> nn.Module:
    """A copy of `module` whose sequences at `paths` are merged."""
    module = copy.deepcopy(module)
    for path in paths:
        parent, _, name = path.rpartition(".")
        layers = module.get_submodule(path)
        setattr(module.get_submodule(parent), name, MergedBlock(*layers.children()).train(layers.training))
    return module


def unmerged(module: nn.Module, trained: nn.Module) -> nn.Module:
    """A copy of `module` that holds what its merged counterpart has learned."""
    module = copy.deepcopy(module)
    module.load_state_dict(trained.state_dict())
    return module


def _product(spread: Convolution, mix: Convolution) -> Tensor:
    """The dense weight (outputs, inputs, kernel) of a grouped convolution, a shuffle if need be, and a 1 x 1."""
    inputs, outputs = spread.groups, mix.groups
    filters = spread.weight.reshape(inputs, outputs, -1, spread.weight[0].numel())
    shuffled = inputs > 1 and outputs > 1
    sides = (-1, inputs) if shuffled else (inputs, -1)
    mixture = mix.weight.reshape(outputs, mix.out_channels // outputs, *sides)
    mixture = mixture.transpose(2, 3) if shuffled else mixture
    dense = torch.einsum("boar,abrk->boak", mixture, filters)
    return dense.reshape(mix.out_channels, spread.in_channels, *spread.kernel_size)
