"""What several families are built of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from haversack.errors import RecipeError


def rounded(channels: float, multiple: int = 8) -> int:
    """The nearest multiple that is at least 0.9 of `channels`, and never none (Howard et al. 2017)."""
    nearest = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return nearest if nearest >= 0.9 * channels else nearest + multiple


def repeated(blocks: int, depth: float) -> int:
    """How many of the `blocks` a network of that depth has: one at least."""
    return max(1, round(blocks * depth))


def strides(default: Sequence[int], downsampling: int) -> list[int]:
    """The strides of a network in order, the last of which became 1 until they multiply to `downsampling`.

    Raises RecipeError where no number of them does.
    """
    left, product = list(default), 1
    for place, stride in enumerate(default):
        left[place] = stride if product * stride <= downsampling else 1
        product *= left[place]
    if product != downsampling:
        raise RecipeError(
            f"downsampling is {downsampling}, which strides {', '.join(map(str, default))} do not multiply to.",
            mend="write a power of two in reach.",
        )
    return left


class Shrunk(nn.Module):
    """The input with `pixels` x `pixels` (or `pixels` points in time) averaged into one."""

    def __init__(self, pixels: int, dimensions: int = 2) -> None:
        super().__init__()
        pool = nn.AvgPool2d if dimensions == 2 else nn.AvgPool1d
        self.pool = pool(pixels) if pixels > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The smaller input."""
        shrunk: Tensor = self.pool(x)
        return shrunk


def convolution(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU6,
    eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution without bias, batch norm and activation, with padding that keeps the extent at stride 1."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, eps=eps),
    ]
    return nn.Sequential(*layers, act(inplace=True)) if act is not None else nn.Sequential(*layers)


def initialised(network: nn.Module) -> nn.Module:
    """The network with kernels drawn for rectified inputs (He et al. 2015), in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return network
