"""Patches: a layer's shape, and what each output position is computed from, which makes it a matrix product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from haversack import zoo
from haversack.graph.ops import Trait, traits_of
from haversack.graph.trace import arguments_of
from haversack.model import Layer, Setting

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
        self._dims = weight.dim() - 2
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
        traits = traits_of(layer)
        return Trait.INTEGER in traits and bool(traits & (Trait.CONVOLUTION | Trait.LINEAR))

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


def _settings(layer: fx.Node) -> tuple[Any, Any, Any, int]:
    """The stride, padding, dilation and groups of a convolution."""
    parts = arguments_of(layer)
    return parts["stride"], parts["padding"], parts["dilation"], int(parts["groups"])


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
