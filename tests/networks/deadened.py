"""Networks in which filters have faded, units never open and columns are zero, as training leaves them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Pick = Callable[[Sequence[Any]], Any]
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


def deadened(module: nn.Module, pick: Pick) -> nn.Module:
    """`module` with some of its filters, batch norm scales or columns made still."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, LAYERS):
                _fade(layer, pick)
            elif isinstance(layer, NORMS):
                for index in range(layer.num_features):
                    if pick([True, False, False, False, False, False]):
                        layer.weight[index] = pick([0.0, 1e-25])
    return module


def _fade(layer: nn.Module, pick: Pick) -> None:
    weight = layer.weight
    rows, columns = (1, 0) if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else (0, 1)
    for index in range(weight.shape[rows]):
        if pick([True, False, False]):
            weight.select(rows, index).mul_(pick([0.0, 1e-20]))
            if layer.bias is not None and len(layer.bias) == weight.shape[rows]:
                layer.bias[index] = pick([-0.5, 0.0, 0.7, 2.0])
    for index in range(weight.shape[columns]):
        if pick([True, False, False, False, False, False]):
            weight.select(columns, index).zero_()
