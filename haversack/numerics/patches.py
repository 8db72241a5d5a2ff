"""Patches: what each output position of a layer is computed from, so that every layer is a product of matrices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

aten = torch.ops.aten

_CONVOLUTIONS: dict[Any, int] = {
    **dict.fromkeys((aten.conv1d.default, aten.conv1d.padding), 1),
    **dict.fromkeys((aten.conv2d.default, aten.conv2d.padding), 2),
}
# Patches repeat each number as often as the kernel is large: cut a part of a large batch at a time.
_MOST_NUMBERS = 1 << 23


class Patches:
    """Cuts a layer's inputs and outputs into matrices whose columns belong together.

    Each group of channels is a problem of its own: inputs become (groups, columns of the weight, positions), outputs
    (groups, rows of the weight, positions). Copying whole pixels is fastest, so columns come pixel by pixel: `order`
    says where each column of the flattened weight is.
    """

    def __init__(self, layer: fx.Node, weight: Tensor, seed: int = 0) -> None:
        self._random = torch.Generator().manual_seed(seed)
        self._dims = _CONVOLUTIONS.get(layer.target, 0)
        self.groups = 1
        if self._dims:
            self._kernel = [1] * (2 - self._dims) + list(weight.shape[2:])
            stride, padding, dilation, self.groups = _settings(layer)
            self._stride, self._dilation = _in_two(stride, self._dims, 1), _in_two(dilation, self._dims, 1)
            self._sides = _sides(padding, self._kernel, self._dilation, self._dims)
        self.shape = (self.groups, len(weight) // self.groups, weight[0].numel())
        self.order = torch.arange(weight[0].numel()).view(-1, weight.shape[1]).T.flatten()

    @staticmethod
    def know(layer: fx.Node) -> bool:
        """Whether this kind of layer can be cut."""
        return layer.target in _CONVOLUTIONS or layer.target is aten.linear.default

    def parts(self, inputs: Tensor, outputs: Tensor, each: int) -> list[tuple[int, int]]:
        """Where to cut a batch so that the patches of each part, `each` a sample, fit into little memory."""
        positions = outputs.numel() // (self.groups * self.shape[1]) // len(inputs)
        numbers = min(positions, each) * self.groups * self.shape[2]
        size = max(1, _MOST_NUMBERS // numbers)
        return [(start, min(start + size, len(inputs))) for start in range(0, len(inputs), size)]

    def __call__(self, inputs: Tensor, outputs: Tensor, each: int) -> tuple[Tensor, Tensor]:
        """The matrices of a batch at all its positions, or at `each` random ones a sample if there are more."""
        if not self._dims:
            x, y = (values.reshape(len(values), -1, values.shape[-1]) for values in (inputs, outputs))
            places = self._places(x.shape[1], each)
            return x[:, places].reshape(1, -1, x.shape[-1]).mT, y[:, places].reshape(1, -1, y.shape[-1]).mT
        maps = inputs if self._dims == 2 else inputs.unsqueeze(2)
        y = outputs.flatten(2)
        places = self._places(y.shape[-1], each)
        rows = F.pad(maps, self._sides).movedim(1, -1)
        x = rows.flatten(0, 2)[self._read(rows, places, outputs.shape[-1])]
        x = x.view(-1, math.prod(self._kernel), self.groups, x.shape[-1] // self.groups)
        return x.permute(2, 1, 3, 0).flatten(1, 2), self._grouped(y[..., places])

    def _places(self, count: int, most: int) -> Tensor:
        return torch.randperm(count, generator=self._random)[:most] if count > most else torch.arange(count)

    def _read(self, rows: Tensor, places: Tensor, width: int) -> Tensor:
        """Which pixels of the flattened maps each place of each sample is computed from, kernel by kernel."""
        samples, height, across, _ = rows.shape
        corners = (places // width * self._stride[0]) * across + places % width * self._stride[1]
        down, right = (torch.arange(size) * step for size, step in zip(self._kernel, self._dilation, strict=True))
        kernel = (down.unsqueeze(1) * across + right).flatten()
        starts = torch.arange(samples) * (height * across)
        return (starts.view(-1, 1, 1) + corners.view(-1, 1) + kernel).flatten()

    def _grouped(self, values: Tensor) -> Tensor:
        return values.transpose(0, 1).reshape(self.groups, values.shape[1] // self.groups, -1)


def channel_dim(layer: fx.Node) -> int:
    """The dimension of a layer's outputs that the rows of its weight make."""
    return -1 if layer.target is aten.linear.default else 1


def _settings(layer: fx.Node) -> tuple[Any, Any, Any, int]:
    """The stride, padding, dilation and groups of a convolution."""
    given = list(layer.args[3:])
    left_out: list[Any] = [1, "valid" if layer.target in (aten.conv1d.padding, aten.conv2d.padding) else 0, 1, 1]
    stride, padding, dilation, groups = given + left_out[len(given) :]
    return stride, padding, dilation, int(groups)


def _in_two(value: Any, dims: int, other: int) -> list[int]:  # noqa: ANN401 - a number or a list, as torch takes it
    """One number a spatial dimension of two; what has one dimension lies along the second."""
    numbers = [value] if isinstance(value, int) else list(value)
    return [other] * (2 - dims) + (numbers * dims if len(numbers) == 1 else numbers)


def _sides(padding: Any, kernel: list[int], dilation: list[int], dims: int) -> list[int]:  # noqa: ANN401
    """How many zeros are added left, right, above and below; torch puts the odd one of `same` behind."""
    if padding == "valid":
        return [0] * 4
    if padding == "same":
        totals = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        ends = [(total // 2, total - total // 2) for total in totals]
    else:
        ends = [(amount, amount) for amount in _in_two(padding, dims, 0)]
    return [amount for pair in reversed(ends) for amount in pair]
