"""The four MLPerf Tiny reference networks (Banbury et al. 2021) in PyTorch, with their pretrained float weights.

Each function takes the folder with the `*.safetensors` files and returns the network in evaluation mode. Inputs are
NCHW floats: ResNet-8 raw 0..255 (1, 3, 32, 32); DS-CNN features (1, 1, 49, 10); VWW RGB / 255 (1, 3, 96, 96); the
autoencoder (1, 640). Padding is TensorFlow's SAME: an odd pixel goes to the bottom and the right.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

_EPSILON = 0.001


class Same(nn.Module):
    """A convolution with TensorFlow's SAME padding, batch norm and, unless `plain`, a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.norm = nn.BatchNorm2d(outputs, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """The normalized convolution, before any activation."""
        return self.norm(self.conv(padded(x, self.conv.kernel_size, self.conv.stride)))


def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """`x` with as many zeros around as TensorFlow's SAME adds."""
    sides: list[int] = []
    for size, width, step in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x


class ResNet8(nn.Module):
    """Image classification: three residual stages of 16, 32 and 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Same(3, 16, (3, 3))
        self.a1, self.a2 = Same(16, 16, (3, 3)), Same(16, 16, (3, 3))
        self.b1, self.b2 = Same(16, 32, (3, 3), 2), Same(32, 32, (3, 3))
        self.b0 = nn.Conv2d(16, 32, 1, 2)
        self.c1, self.c2 = Same(32, 64, (3, 3), 2), Same(64, 64, (3, 3))
        self.c0 = nn.Conv2d(32, 64, 1, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten classes."""
        x = F.relu(self.first(x))
        x = F.relu(self.a2(F.relu(self.a1(x))) + x)
        x = F.relu(self.b2(F.relu(self.b1(x))) + self.b0(x))
        x = F.relu(self.c2(F.relu(self.c1(x))) + self.c0(x))
        return self.linear(x.mean((2, 3)))


class DepthwiseSeparable(nn.Module):
    """A depthwise 3x3 and a pointwise convolution, each with batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.depthwise = Same(inputs, inputs, (3, 3), stride, groups=inputs)
        self.pointwise = Same(inputs, outputs, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The block's activations."""
        return F.relu(self.pointwise(F.relu(self.depthwise(x))))


class Separable(nn.Module):
    """A first convolution, depthwise separable blocks, one average of `pooled` pixels and a linear layer."""

    def __init__(self, first: Same, blocks: list[DepthwiseSeparable], pooled: tuple[int, int], classes: int) -> None:
        super().__init__()
        self.first, self.blocks, self.pooled = first, nn.Sequential(*blocks), pooled
        self.linear = nn.Linear(blocks[-1].pointwise.conv.out_channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.linear(F.avg_pool2d(self.blocks(F.relu(self.first(x))), self.pooled).flatten(1))


class Autoencoder(nn.Module):
    """Anomaly detection: nine dense layers with batch norm and ReLU, and a last one without."""

    def __init__(self) -> None:
        super().__init__()
        widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128]
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairwise(widths)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(width, eps=_EPSILON) for width in widths[1:]])
        self.last = nn.Linear(128, 640)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstructed features."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.last(x)


def resnet8(folder: Path) -> nn.Module:
    """ResNet-8 for CIFAR-10: 78,186 parameters, 87.19 % on the test set."""
    network = ResNet8()
    first = [network.first, network.a1, network.a2, network.b1, network.b2]
    last = [network.c1, network.c2]
    convolutions = [*(each.conv for each in first), network.b0, *(each.conv for each in last), network.c0]
    names = _numbered("conv2d", convolutions)
    names |= _numbered("batch_normalization", [each.norm for each in (*first, *last)])
    return _filled(network, {**names, "dense": network.linear}, Path(folder) / "ic_resnet8_float.safetensors")


def dscnn(folder: Path) -> nn.Module:
    """DS-CNN for keyword spotting: 23,756 parameters, 91.5 % of kws01_eval; its pool leaves the 25th row out."""
    network = Separable(Same(1, 64, (10, 4), 2), [DepthwiseSeparable(64, 64) for _ in range(4)], (24, 5), 12)
    return _filled(network, _separable_names(network), Path(folder) / "kws_dscnn_float.safetensors")


def vww(folder: Path) -> nn.Module:
    """MobileNetV1-0.25 for visual wake words: 216,322 parameters."""
    widths = [8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    blocks = [DepthwiseSeparable(i, o, s) for i, o, s in zip(widths, widths[1:], strides, strict=False)]
    network = Separable(Same(3, 8, (3, 3), 2), blocks, (3, 3), 2)
    return _filled(network, _separable_names(network), Path(folder) / "vww_mobilenetv1_025_96_float.safetensors")


def autoencoder(folder: Path) -> nn.Module:
    """The autoencoder of machine sounds: 267,928 parameters."""
    network = Autoencoder()
    names = _numbered("dense", [*network.layers, network.last]) | _numbered("batch_normalization", network.norms)
    return _filled(network, names, Path(folder) / "ad_autoencoder_float.safetensors")


def _numbered(name: str, layers: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Layers as Keras names them: conv2d, conv2d_1, conv2d_2..."""
    return {f"{name}_{index}" if index else name: layer for index, layer in enumerate(layers)}


def _separable_names(network: Separable) -> dict[str, nn.Module]:
    """Keras numbers convolutions and batch norms in the order in which they run, depthwise ones apart."""
    same = [network.first, *(each for block in network.blocks for each in (block.depthwise, block.pointwise))]
    names = _numbered("batch_normalization", [each.norm for each in same])
    names |= _numbered("conv2d", [network.first.conv, *(block.pointwise.conv for block in network.blocks)])
    names |= _numbered("depthwise_conv2d", [block.depthwise.conv for block in network.blocks])
    return {**names, "dense": network.linear}


def _filled(network: nn.Module, layers: dict[str, nn.Module], path: Path) -> nn.Module:
    tensors = load_file(path)
    wanted = {f"{name}.{key}" for name, layer in layers.items() for key in layer.state_dict() if "batches" not in key}
    if wanted != set(tensors):
        raise SystemExit(f"{path}: {sorted(wanted ^ set(tensors))}")
    with torch.no_grad():
        for name, layer in layers.items():
            for key, tensor in layer.state_dict().items():
                if "batches" not in key:
                    tensor.copy_(tensors[f"{name}.{key}"].view_as(tensor))
    return network.eval()
