"""Geometry: the shape of a linear layer or a convolution, and of the layers that take its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack import zoo
from haversack.model import Layer, Setting

Kind = Literal["Linear", "Conv1d", "Conv2d"]
_DIMS = {nn.Linear: 0, nn.Conv1d: 1, nn.Conv2d: 2}
Padding = tuple[int, ...] | str


@dataclass(frozen=True)
class Geometry:
    """A layer without its numbers. A linear layer has no spatial dimensions, so its tuples are empty."""

    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: Padding = ()
    dilation: tuple[int, ...] = ()
    bias: bool = True

    @property
    def pixels(self) -> int:
        """How many pixels of the input each output pixel is computed from."""
        return math.prod(self.kernel)

    @property
    def everywhere(self) -> tuple[bool, ...]:
        """All dimensions of the kernel, for a piece that sweeps them."""
        return (True,) * len(self.kernel)

    @property
    def nowhere(self) -> tuple[bool, ...]:
        """No dimension of the kernel, for a piece that reads one pixel."""
        return (False,) * len(self.kernel)

    def piece(self, inputs: int, outputs: int, sweeps: Sequence[bool], *, groups: int = 1, last: bool = False) -> Layer:
        """A layer of this kind that keeps the kernel, stride, padding and dilation of the dimensions it `sweeps`.

        In the others it reads one pixel. The last layer has the bias, where this one has.
        """
        bias = self.bias and last
        if self.kind == "Linear":
            return Layer("Linear", {"in_features": inputs, "out_features": outputs, "bias": bias})
        settings: dict[str, Setting] = {"in_channels": inputs, "out_channels": outputs}
        settings["kernel_size"] = _where(sweeps, self.kernel, 1)
        settings["stride"] = _where(sweeps, self.stride, 1)
        settings["padding"] = self.padding if isinstance(self.padding, str) else _where(sweeps, self.padding, 0)
        settings["dilation"] = _where(sweeps, self.dilation, 1)
        return Layer(self.kind, {**settings, "groups": groups, "bias": bias})

    def patches(self, inputs: Tensor) -> Tensor:
        """What each output position is computed from: (positions, input channels * pixels), as the weight lies."""
        if self.kind == "Linear":
            return inputs.reshape(-1, self.inputs)
        maps = F.pad(inputs, self._sides())
        across = 2 - len(self.kernel)
        maps = maps.unsqueeze(2) if across else maps
        kernel, stride, dilation = ((1,) * across + each for each in (self.kernel, self.stride, self.dilation))
        cut = F.unfold(maps, kernel, dilation=dilation, stride=stride)
        return cut.transpose(1, 2).reshape(-1, cut.shape[1])

    def _sides(self) -> list[int]:
        """Zeros before and after, last dimension first; torch puts the odd one of `same` behind."""
        if self.padding == "valid":
            ends = [(0, 0)] * len(self.kernel)
        elif isinstance(self.padding, str):
            totals = [step * (size - 1) for size, step in zip(self.kernel, self.dilation, strict=True)]
            ends = [(total // 2, total - total // 2) for total in totals]
        else:
            ends = [(amount, amount) for amount in self.padding]
        return [amount for pair in reversed(ends) for amount in pair]


def geometry_of(layer: nn.Module) -> Geometry | None:
    """The geometry of a plain linear layer or convolution, or None where its weight is not one dense matrix."""
    dims = _DIMS.get(type(layer))
    if dims is None:
        return None
    if isinstance(layer, nn.Linear):
        return Geometry("Linear", layer.in_features, layer.out_features, bias=layer.bias is not None)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d) or layer.groups != 1 or layer.padding_mode != "zeros":
        return None
    return Geometry(
        type(layer).__name__,
        layer.in_channels,
        layer.out_channels,
        tuple(layer.kernel_size),
        tuple(layer.stride),
        layer.padding if isinstance(layer.padding, str) else tuple(layer.padding),
        tuple(layer.dilation),
        layer.bias is not None,
    )


def macs(layers: Sequence[Layer], input_shape: Sequence[int]) -> int:
    """The multiply-accumulates of `layers`, one after the other, on an input of that shape (a batch of 1)."""
    counted: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1:
            counted.append(weight.numel() * output.numel() // weight.shape[0])

    network = _on_meta(layers)
    for layer in network.modules():
        layer.register_forward_hook(count)
    network(torch.empty(tuple(input_shape), device="meta"))
    return sum(counted)


def parameters(layers: Sequence[Layer]) -> int:
    """The numbers that `layers` hold."""
    return sum(parameter.numel() for parameter in _on_meta(layers).parameters())


def _on_meta(layers: Sequence[Layer]) -> nn.Module:
    """The layers without numbers."""
    with torch.device("meta"):
        built = [(zoo.kind(layer.kind) or getattr(nn, layer.kind))(**layer.settings) for layer in layers]
    return nn.Sequential(*built).eval()


def _where(swept: Sequence[bool], values: Sequence[int], otherwise: int) -> tuple[int, ...]:
    return tuple(value if here else otherwise for here, value in zip(swept, values, strict=True))
