"""Small torch networks out of random choices, of every operation that has an integer form, in any order that fits."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from prunable_networks import settled
from torch import Tensor, nn
from torch.nn import functional as F

Pick = Callable[[Sequence[Any]], Any]


class Does(nn.Module):
    """A function of the value and some layers, with a name that a failing example prints."""

    def __init__(self, name: str, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.name, self.function, self.layers = name, function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)

    def extra_repr(self) -> str:
        return self.name


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "silu": F.silu,
}
SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"add": torch.add, "sub": torch.sub, "mul": torch.mul}


def activation(pick: Pick) -> Does:
    name = pick(list(ACTIVATIONS))
    return Does(name, ACTIVATIONS[name])


def maybe_clamped(pick: Pick, layer: nn.Module) -> nn.Module:
    """The layer, mostly with what usually stands behind it."""
    return pick([layer, nn.Sequential(layer, nn.ReLU()), nn.Sequential(layer, nn.ReLU6())])


def normed(pick: Pick, layer: Any, norm: type[nn.Module], channels: int) -> nn.Module:
    return pick([layer, nn.Sequential(layer, norm(channels)), nn.Sequential(layer, norm(channels), nn.ReLU())])


def kernel_sizes(pick: Pick, sizes: Sequence[int]) -> dict[str, Any]:
    """Kernel, stride, dilation and padding that leave something of a map."""
    found: dict[str, list[int]] = {"kernel_size": [], "stride": [], "padding": [], "dilation": []}
    for size in sizes:
        kernel, padding, dilation = pick([1, 2, 3]), pick([0, 1, 2]), pick([1, 1, 2])
        if (kernel - 1) * dilation + 1 > size + 2 * padding:
            kernel = 1
        for name, number in zip(found, (kernel, pick([1, 1, 2, 3]), padding, dilation), strict=True):
            found[name].append(number)
    return dict(found)


def convolution(pick: Pick, x: Tensor) -> nn.Module:
    channels, kind = x.shape[1], nn.Conv2d if x.dim() == 4 else nn.Conv1d
    groups = pick([1, 1, channels, *(each for each in (2, 3) if channels % each == 0)])
    outputs = groups * pick([1, 2] if groups == channels else [1, 2, 3])
    settings = kernel_sizes(pick, x.shape[2:])
    if pick([False, False, True]):
        settings |= {"padding": "same", "stride": 1}
    layer = kind(channels, outputs, **settings, groups=groups, bias=pick([True, True, False]))
    return normed(pick, layer, nn.BatchNorm2d if x.dim() == 4 else nn.BatchNorm1d, outputs)


def keeping(pick: Pick, x: Tensor, channels: int | None = None) -> nn.Module:
    """A branch that keeps all sizes but that of the channels."""
    into, out = x.shape[1], channels or x.shape[1]
    if x.dim() == 2:
        return maybe_clamped(pick, nn.Linear(into, out))
    size = pick([1, 3])
    groups = into if out == into and pick([False, True]) else 1
    kind = nn.Conv2d if x.dim() == 4 else nn.Conv1d
    return maybe_clamped(pick, kind(into, out, size, padding=size // 2, groups=groups))


def both_branches(pick: Pick, x: Tensor) -> nn.Module:
    name = pick(list(SUMS))
    left, right = keeping(pick, x), pick([nn.Identity(), keeping(pick, x)])
    both = Does(name, lambda x, a, b: SUMS[name](a(x), b(x)), left, right)
    return maybe_clamped(pick, both)


def concatenation(pick: Pick, x: Tensor) -> nn.Module:
    parts = [pick([nn.Identity(), keeping(pick, x, pick([1, 3, 4]))]), keeping(pick, x, pick([2, 3]))]
    parts += [activation(pick)] if pick([False, True]) else []
    return Does("cat", lambda x, *layers: torch.cat([each(x) for each in layers], 1), *parts)


def halves(pick: Pick, x: Tensor) -> nn.Module | None:
    channels = x.shape[1]
    if channels < 2:
        return None
    if channels % 2 or pick([False, True]):
        widths = [1, channels - 1]
        layer = keeping(pick, x[:, 1:], pick([1, 2]))
        return Does("split", lambda x, a: torch.cat([a(x.split(widths, 1)[1]), x.split(widths, 1)[0]], 1), layer)
    if pick([False, True]):
        layer = keeping(pick, x[:, : channels // 2])
        return Does("chunk", lambda x, a: torch.cat([x.chunk(2, 1)[0], a(x.chunk(2, 1)[1])], 1), layer)
    return Does("glu", lambda x: torch.mul(x.chunk(2, 1)[0], torch.sigmoid(x.chunk(2, 1)[1])))


def excited(pick: Pick, x: Tensor) -> nn.Module | None:
    if x.dim() == 2:
        return None
    gate, inner = pick(["sigmoid", "hardsigmoid"]), pick([1, 2])
    kind, dims = (nn.Conv2d, (2, 3)) if x.dim() == 4 else (nn.Conv1d, (2,))
    return Does(
        f"squeeze and excite by {gate}",
        lambda x, a, b: x * ACTIVATIONS[gate](b(F.relu(a(x.mean(dims, keepdim=True))))),
        *(kind(x.shape[1], inner, 1), kind(inner, x.shape[1], 1)),
    )


def pool(pick: Pick, x: Tensor) -> nn.Module | None:
    if x.dim() == 2:
        return None
    two, kernel = x.dim() == 4, pick([2, 3])
    if min(x.shape[2:]) < kernel:
        return None
    settings: dict[str, Any] = {"padding": pick([0, 1]), "stride": pick([1, 2, None])}
    if pick([True, False]):
        kind = nn.MaxPool2d if two else nn.MaxPool1d
        return kind(kernel, **settings, ceil_mode=pick([False, False, True]))
    kind = nn.AvgPool2d if two else nn.AvgPool1d
    return kind(kernel, **settings)


def padding(pick: Pick, x: Tensor) -> nn.Module | None:
    if x.dim() == 2:
        return None
    amounts = [pick([0, 1, 2]) for _ in range(2 * pick(range(1, x.dim())))]
    return Does(f"pad {amounts}", lambda x: F.pad(x, amounts))


def sliced(pick: Pick, x: Tensor) -> nn.Module:
    dim = pick(range(1, x.dim()))
    begin, step = pick([0, 1]) if x.shape[dim] > 1 else 0, pick([1, 2])
    end = pick([None, -1]) if x.shape[dim] > 2 else None
    place = (slice(None),) * dim + (slice(begin, end, step),)
    return Does(f"slice {dim}: {begin}, {end}, {step}", lambda x: x[place])


def upsampled(_pick: Pick, x: Tensor) -> nn.Module | None:
    return nn.Upsample(scale_factor=2) if x.dim() > 2 and x[0].numel() < 200 else None


def turned(pick: Pick, x: Tensor) -> nn.Module | None:
    """A permutation, perhaps with a linear layer in it, or ShuffleNet's."""
    channels = x.shape[1]
    if x.dim() > 2 and channels % 2 == 0 and pick([False, True]):
        return Does("shuffle", lambda x: x.unflatten(1, (2, channels // 2)).transpose(1, 2).flatten(1, 2))
    if x.dim() == 3:
        layer = nn.Linear(channels, pick([2, 3, 4]))
        return Does("linear on channels", lambda x, a: a(x.transpose(1, 2)).transpose(1, 2), layer)
    if x.dim() == 4:
        order = pick([(0, 1, 3, 2), (0, 2, 1, 3), (0, 3, 2, 1), (0, 2, 3, 1)])
        return Does(f"permute {order}", lambda x: x.permute(order))
    return None


def flattened(pick: Pick, x: Tensor) -> nn.Module:
    """Fewer dimensions, or more."""
    if x.dim() == 4:
        names = ["flatten", "lines", "mean", "row means", "amax", "global", "squeeze", "select"]
        return Does(name := pick(names), FEWER[name])
    if x.dim() == 3:
        return Does(name := pick(["flatten", "mean of 3", "map", "amax of 3"]), FEWER[name])
    count = x.shape[1]
    low = next((each for each in (2, 3) if count % each == 0 and count > each), 1)
    return Does("to a signal", lambda x: x.reshape(-1, low, count // low))


FEWER: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x.flatten(1),
    "lines": lambda x: x.flatten(2),
    "mean": lambda x: x.mean((2, 3)),
    "row means": lambda x: x.mean(2),
    "amax": lambda x: x.amax((2, 3)),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "squeeze": lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2),
    "select": lambda x: x[:, :, -1],
    "mean of 3": lambda x: x.mean(2),
    "amax of 3": lambda x: x.amax(2),
    "map": lambda x: x.unsqueeze(2),
}


def dense(pick: Pick, x: Tensor) -> nn.Module:
    if x.dim() > 2:
        return convolution(pick, x)
    outputs = pick([2, 3, 5, 8])
    return normed(pick, nn.Linear(x.shape[1], outputs, bias=pick([True, True, False])), nn.BatchNorm1d, outputs)


def activated(pick: Pick, _x: Tensor) -> nn.Module:
    return activation(pick)


def reused(pick: Pick, x: Tensor) -> nn.Module:
    """A value that is read before and after its activation."""
    act = activation(pick)
    return Does(f"x + {act.name}(x)", lambda x, a, b: a(x) + b(a(x)), keeping(pick, x), act)


def shifted(pick: Pick, x: Tensor) -> nn.Module:
    """Products and sums with constants, a number for all or one for each channel."""
    shape = (x.shape[1], *(1,) * (x.dim() - 2))
    factor, term = pick([torch.rand(shape) + 0.5, torch.tensor(0.5)]), pick([torch.randn(shape), torch.tensor(-1.0)])
    name = pick(["x * c + d", "x - d", "2 - x", "x / c"])
    return Does(name, partial(SHIFTS[name], factor=factor, term=term))


SHIFTS: dict[str, Callable[..., Tensor]] = {
    "x * c + d": lambda x, factor, term: x * factor + term,
    "x - d": lambda x, factor, term: x - term,
    "2 - x": lambda x, factor, term: 2 - x,
    "x / c": lambda x, factor, term: x / factor,
}


def enlarged(pick: Pick, x: Tensor) -> nn.Module | None:
    if x.dim() == 2 or x[0].numel() > 200:
        return None
    kind = nn.ConvTranspose2d if x.dim() == 4 else nn.ConvTranspose1d
    kernel, stride, padding = pick([(2, 2, 0), (4, 2, 1), (3, 1, 1), (3, 2, 0)])
    return maybe_clamped(pick, kind(x.shape[1], pick([1, 2, 3]), kernel, stride, padding))


STEPS = [dense, dense, dense, activated, activated, both_branches, both_branches, concatenation, halves]
STEPS += [excited, pool, pool, padding, sliced, upsampled, turned, flattened, reused, shifted, enlarged]
SHAPES = [(3, 8, 8), (4, 7, 9), (1, 10, 6), (6, 5, 5), (3, 16), (4, 11), (20,), (12,)]


def network(pick: Pick, most: int = 10) -> tuple[nn.Module, tuple[int, ...]]:
    """A network in evaluation mode, and the shape of one input."""
    shape = pick(SHAPES)
    torch.manual_seed(pick(range(1000)))
    x, layers = torch.zeros(2, *shape), []
    for _ in range(pick(range(4, most + 1))):
        layer = pick(STEPS)(pick, x)
        if layer is not None:
            x = layer.eval()(x).detach()
            layers.append(layer)
    layers += pick([[], [flattened(pick, x)], [nn.Flatten(), nn.Linear(x[0].numel(), 5)]])
    layers += pick([[], [], [nn.Softmax(-1)]])
    return settled(nn.Sequential(*layers)), shape


def chooser(seed: int) -> Pick:
    """Choices from a seed, where nothing shall be made smaller."""
    return random.Random(seed).choice
