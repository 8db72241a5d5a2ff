"""Small networks of every build that channel pruning must survive, with random but lively batch statistics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` in evaluation mode, its batch norms as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.3, 0.3),
                (layer.running_mean, -0.2, 0.2),
                (layer.running_var, 0.5, 2.0),
            ):
                tensor.data = torch.empty(tensor.shape).uniform_(low, high, generator=generator)
    return module.eval()


def conv(into: int, out: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out), nn.ReLU6()
    )


class PaddedBlock(nn.Module):
    """A CIFAR ResNet's block: its shortcut takes every second pixel and pads zero channels on either side."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(into, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.pad = stride, (out - into) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)


class PaddedResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.blocks = nn.Sequential(PaddedBlock(8, 8, 1), PaddedBlock(8, 16, 2), PaddedBlock(16, 32, 2))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand = conv(width, inner, 1)
        self.depthwise = conv(inner, inner, 3, groups=inner)
        self.project = nn.Sequential(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


def mobile() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8, 5))
    return nn.Sequential(conv(3, 8, 3, 2), InvertedResidual(8, 24), InvertedResidual(8, 16), *head)


class Dense(nn.Module):
    """DenseNet's concatenations (Huang et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(3))
        self.head = nn.Linear(18, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.head(x.mean((2, 3)))


def signal() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 12, 5, 2), nn.BatchNorm1d(12), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(12, 8, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 3, 16), nn.ReLU(), nn.Linear(16, 5),
    )  # fmt: skip


class Excite(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, width // 2, 1), nn.Conv2d(width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


def excited() -> nn.Module:
    return nn.Sequential(conv(3, 12), Excite(12), conv(12, 8), nn.Flatten(), nn.Linear(8 * 64, 5))


def grouped() -> nn.Module:
    return nn.Sequential(
        conv(3, 12), conv(12, 24, 3, groups=3), conv(24, 10, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(40, 5)
    )


class Transformer(nn.Module):
    """Attention by hand and by nn.MultiheadAttention, as wide as the stream that they write to."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.position = nn.Linear(6, width), nn.Parameter(torch.randn(1, 7, width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.layer = nn.TransformerEncoderLayer(width, heads, 24, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        batch, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.out(y)
        return self.head(self.layer(x + self.mlp(self.norm2(x)))[:, 0])


class Upscale(nn.Module):
    """Transposed, dilated and shared layers, PReLU, instance norm, nearest upsampling and a skip by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU(8)
        self.norm = nn.InstanceNorm2d(8, affine=True)
        self.shared = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.fine = nn.ConvTranspose2d(6, 6, 3, 1, 1, groups=6)
        self.end = nn.Conv2d(14, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.norm(self.act(self.down(x)))
        deep = F.relu(self.shared(F.relu(self.shared(low))))
        return self.end(torch.cat([self.fine(self.up(deep)), F.interpolate(low, scale_factor=2.0)], 1))


class WholeHeads(nn.Module):
    """Attention whose heads' size stands in the code, so that heads may go; then one whose heads may get smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 20) for _ in range(3))
        self.out, self.qkv, self.head = nn.Linear(20, 6), nn.Linear(6, 36), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (layer(x).view(b, n, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        q, k, v = self.qkv(x).view(b, n, 3, 2, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * 0.4).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).reshape(b, n, -1))


class Recurrent(nn.Module):
    """A stacked LSTM in both directions, a GRU whose last state is read, and a plain RNN."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.lstm = nn.Linear(6, 8), nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
        self.gru, self.rnn, self.head = nn.GRU(12, 8, 2), nn.RNN(12, 6, bias=False), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lstm(self.into(x))[0].transpose(0, 1)
        return self.head(torch.cat([self.gru(x)[1][-1], self.rnn(x)[0].mean(0)], 1))


class Shuffled(nn.Module):
    """Squeeze-and-excitation with sizes read off the tensor, halves that pass by, a shuffle and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc1, self.fc2 = conv(3, 16), nn.Linear(16, 6), nn.Linear(6, 16)
        self.branch, self.gated, self.up = conv(8, 8), nn.Conv2d(16, 12, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        b, c, h, w = x.shape
        x = x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3)).view(b, c))))).view(b, c, 1, 1)
        left, right = x[:, : c // 2], x[:, c // 2 :]
        x = torch.cat([left, self.branch(right)], 1).view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(F.pixel_shuffle(F.relu(self.up(F.glu(self.gated(x), 1))), 2).amax((2, 3)))


IMAGE, SIGNAL, TOKENS = torch.Size((2, 3, 8, 8)), torch.Size((2, 4, 26)), torch.Size((2, 7, 6))
NETWORKS = {
    "padded residual": (PaddedResidual, IMAGE),
    "mobile": (mobile, IMAGE),
    "dense": (Dense, IMAGE),
    "signal": (signal, SIGNAL),
    "excited": (excited, IMAGE),
    "grouped": (grouped, IMAGE),
    "transformer": (Transformer, TOKENS),
    "upscale": (Upscale, IMAGE),
    "whole heads": (WholeHeads, TOKENS),
    "recurrent": (Recurrent, TOKENS),
    "shuffled": (Shuffled, IMAGE),
}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """One of the networks, settled, and a batch of two inputs."""
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    module = settled(kind())
    return module, torch.randn(shape)
