"""Networks of depthwise convolutions, attention over channels, shuffles and splits."""

import torch
from blocks import conv, head, linear_conv
from residual import Residual
from torch import nn
from torch.nn import functional as F


def separable(into, out, stride=1, act=nn.ReLU):
    return nn.Sequential(conv(into, into, 3, stride, into, act), conv(into, out, 1, act=act))


def mobilenet_v1():
    return nn.Sequential(conv(3, 16, 3, 2), separable(16, 32), separable(32, 48, 2), separable(48, 48), head(48))


def ds_cnn():
    """The keyword spotter of Zhang et al. 2017 on a map of 49 x 10 coefficients."""
    stem = nn.Sequential(nn.Conv2d(1, 32, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(stem, *(separable(32, 32) for _ in range(3)), nn.Dropout(0.2), head(32, 12))


class Excite(nn.Module):
    """Squeeze and excitation as most code spells it (Hu et al. 2018)."""

    def __init__(self, width, inner, gate=torch.sigmoid):
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Linear(width, inner), nn.Linear(inner, width), gate

    def forward(self, x):
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.gate(self.fc2(F.relu(self.fc1(y)))).view(b, c, 1, 1)


class MeanExcite(nn.Module):
    """The same with .mean and 1x1 convolutions."""

    def __init__(self, width, inner):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class EfficientAttention(nn.Module):
    """A 1-D convolution over neighbouring channels (ECA, Wang et al. 2020)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x):
        y = x.mean((2, 3)).unsqueeze(1)
        return x * torch.sigmoid(self.conv(y)).squeeze(1)[:, :, None, None]


class SpatialAttention(nn.Module):
    """A mask over pixels from the mean and maximum of all channels (CBAM, Woo et al. 2018)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x):
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.conv(both))


def se_net():
    return nn.Sequential(conv(3, 16, 3, 2), Excite(16, 8), conv(16, 32, 3, 2), Excite(32, 8), head(32))


def eca_net():
    return nn.Sequential(conv(3, 16, 3, 2), EfficientAttention(), conv(16, 24), conv(24, 24), head(24))


def cbam_net():
    return nn.Sequential(conv(3, 16, 3, 2), SpatialAttention(), conv(16, 24), MeanExcite(24, 8), head(24))


def inverted(into, inner, out, stride=1, act=nn.ReLU6, excite=None, size=3):
    layers = [conv(into, inner, 1, act=act), conv(inner, inner, size, stride, inner, act), excite or nn.Identity()]
    body = nn.Sequential(*layers, linear_conv(inner, out))
    return Residual(body, act=nn.Identity()) if into == out and stride == 1 else body


def mobilenet_v2():
    blocks = (inverted(16, 48, 24, 2), inverted(24, 72, 24), inverted(24, 72, 32, 2), inverted(32, 96, 32))
    return nn.Sequential(conv(3, 16, act=nn.ReLU6), *blocks, conv(32, 64, 1, act=nn.ReLU6), nn.Dropout(0.2), head(64))


def mobilenet_v3():
    blocks = (
        inverted(16, 32, 16, 1, nn.ReLU, MeanExcite(32, 8)), inverted(16, 48, 24, 2, nn.Hardswish, MeanExcite(48, 12)),
        inverted(24, 64, 24, 1, nn.Hardswish, Excite(64, 16, F.hardsigmoid), 5),
    )  # fmt: skip
    classifier = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 64), nn.Hardswish(), nn.Linear(64, 10))
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.Hardswish), *blocks, conv(24, 48, 1, act=nn.Hardswish), *classifier)


def efficientnet():
    """Tan and Le 2019."""
    blocks = (inverted(16, 32, 24, 2, nn.SiLU, Excite(32, 4)), inverted(24, 72, 24, 1, nn.SiLU, Excite(72, 6), 5))
    return nn.Sequential(conv(3, 16, 3, 2, act=nn.SiLU), *blocks, conv(24, 64, 1, act=nn.SiLU), head(64))


def mnasnet():
    return nn.Sequential(
        conv(3, 16, 3, 2),
        separable(16, 16),
        inverted(16, 48, 24, 2, nn.ReLU),
        inverted(24, 72, 24, 1, nn.ReLU, size=5),
        head(24),
    )


def shuffled(x, groups):
    b, c, h, w = x.shape
    return x.view(b, groups, c // groups, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)


class ShuffleV1(nn.Module):
    """Grouped 1x1 convolutions with a shuffle between (Zhang et al. 2018)."""

    def __init__(self, width, inner, groups):
        super().__init__()
        self.groups, self.first = groups, conv(width, inner, 1, groups=groups)
        self.depthwise, self.last = linear_conv(inner, inner, 3, 1, inner), linear_conv(inner, width, 1, 1, groups)

    def forward(self, x):
        return F.relu(x + self.last(self.depthwise(shuffled(self.first(x), self.groups))))


class ShuffleV2(nn.Module):
    """Half of the channels pass by, then both halves are shuffled (Ma et al. 2018)."""

    def __init__(self, width):
        super().__init__()
        half = width // 2
        self.body = nn.Sequential(conv(half, half, 1), linear_conv(half, half, 3, 1, half), conv(half, half, 1))

    def forward(self, x):
        left, right = x.chunk(2, dim=1)
        return shuffled(torch.cat([left, self.body(right)], 1), 2)


class ShuffleDown(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.left = nn.Sequential(linear_conv(into, into, 3, 2, into), conv(into, out // 2, 1))
        self.right = nn.Sequential(
            conv(into, out // 2, 1), linear_conv(out // 2, out // 2, 3, 2, out // 2), conv(out // 2, out // 2, 1)
        )

    def forward(self, x):
        return shuffled(torch.cat([self.left(x), self.right(x)], 1), 2)


def shufflenet_v1():
    return nn.Sequential(conv(3, 24, 3, 2), ShuffleV1(24, 12, 3), ShuffleV1(24, 24, 3), conv(24, 32, 1), head(32))


def shufflenet_v2():
    return nn.Sequential(
        conv(3, 16, 3, 2), ShuffleDown(16, 32), ShuffleV2(32), ShuffleV2(32), conv(32, 48, 1), head(48)
    )


class Ghost(nn.Module):
    """Half of the features from a cheap depthwise convolution of the other half (Han et al. 2020)."""

    def __init__(self, into, out, act=nn.ReLU):
        super().__init__()
        self.primary, self.cheap = conv(into, out // 2, 1, act=act), conv(out // 2, out // 2, 3, 1, out // 2, act)

    def forward(self, x):
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


def ghostnet():
    blocks = (Residual(nn.Sequential(Ghost(16, 48), Ghost(48, 16, nn.Identity))) for _ in "ab")
    return nn.Sequential(conv(3, 16, 3, 2), *blocks, conv(16, 48, 1), head(48))


class ConvNeXt(nn.Module):
    """Wide depthwise kernels, LayerNorm over channels, linear layers on the last dimension (Liu et al. 2022)."""

    def __init__(self, width):
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down, self.gamma = (
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
            nn.Parameter(torch.ones(width)),
        )

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over channels by hand."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


def convnext():
    down = nn.Sequential(ChannelsFirstNorm(16), nn.Conv2d(16, 32, 2, 2))
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, 4),
        ConvNeXt(16),
        down,
        ConvNeXt(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(32),
        nn.Linear(32, 10),
    )


def convmixer():
    """Trockman and Kolter 2022."""
    blocks = (
        nn.Sequential(Residual(conv(24, 24, 5, 1, 24, nn.GELU), act=nn.Identity()), conv(24, 24, 1, act=nn.GELU))
        for _ in "ab"
    )
    return nn.Sequential(nn.Conv2d(3, 24, 4, 4), nn.GELU(), nn.BatchNorm2d(24), *blocks, head(24))


IMAGE = (3, 32, 32)
NETWORKS = {
    "MobileNetV1": (mobilenet_v1, IMAGE),
    "DS-CNN": (ds_cnn, (1, 49, 10)),
    "SE-Net": (se_net, IMAGE),
    "ECA-Net": (eca_net, IMAGE),
    "CBAM": (cbam_net, IMAGE),
    "MobileNetV2": (mobilenet_v2, IMAGE),
    "MobileNetV3": (mobilenet_v3, IMAGE),
    "EfficientNet": (efficientnet, IMAGE),
    "MNASNet": (mnasnet, IMAGE),
    "ShuffleNetV1": (shufflenet_v1, IMAGE),
    "ShuffleNetV2": (shufflenet_v2, IMAGE),
    "GhostNet": (ghostnet, IMAGE),
    "ConvNeXt": (convnext, IMAGE),
    "ConvMixer": (convmixer, IMAGE),
}
