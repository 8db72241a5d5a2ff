"""Networks that add, join or split streams of channels."""

import torch
from blocks import conv, head, linear_conv
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Sums of a body and a shortcut, which is the identity unless a layer is given (He et al. 2015)."""

    def __init__(self, body, shortcut=None, act=F.relu):
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut or nn.Identity(), act

    def forward(self, x):
        return self.act(self.body(x) + self.shortcut(x))


def basic(into, out, stride=1):
    body = nn.Sequential(conv(into, out, 3, stride), linear_conv(out, out, 3))
    return Residual(body, linear_conv(into, out, 1, stride) if stride > 1 or into != out else None)


def bottleneck(into, inner, out, stride=1, groups=1):
    body = nn.Sequential(conv(into, inner, 1), conv(inner, inner, 3, stride, groups), linear_conv(inner, out))
    return Residual(body, linear_conv(into, out, 1, stride) if stride > 1 or into != out else None)


def resnet_basic():
    return nn.Sequential(conv(3, 16), basic(16, 16), basic(16, 32, 2), basic(32, 32), head(32))


def resnet_bottleneck():
    blocks = (bottleneck(16, 8, 32), bottleneck(32, 8, 32), bottleneck(32, 16, 48, 2))
    return nn.Sequential(conv(3, 16, 3, 2), *blocks, head(48))


def resnext():
    """Grouped bottlenecks (Xie et al. 2017)."""
    return nn.Sequential(conv(3, 16, 3, 2), bottleneck(16, 16, 32, 1, 4), bottleneck(32, 32, 32, 2, 8), head(32))


def wide_resnet():
    return nn.Sequential(conv(3, 16, 3, 2), basic(16, 48), basic(48, 64, 2), head(64))


class OptionA(nn.Module):
    """The shortcut pads zero channels, as ResNets for CIFAR do."""

    def __init__(self, into, out):
        super().__init__()
        self.body, self.extra = nn.Sequential(conv(into, out, 3, 2), linear_conv(out, out, 3)), out - into

    def forward(self, x):
        return F.relu(self.body(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2)))


def resnet_option_a():
    return nn.Sequential(conv(3, 16), basic(16, 16), OptionA(16, 32), basic(32, 32), head(32))


class PreActivation(nn.Module):
    """Norm and activation before each convolution (He et al. 2016)."""

    def __init__(self, width, inner):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, inner, 3, padding=1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 3, padding=1, bias=False)

    def forward(self, x):
        return x + self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))


def resnet_pre_activation():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2), PreActivation(16, 24), PreActivation(16, 16), nn.BatchNorm2d(16), head(16)
    )


def resnet_d():
    """An averaging shortcut and a stem of three convolutions (He et al. 2019)."""
    shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), linear_conv(16, 32))
    body = nn.Sequential(conv(16, 8, 1), conv(8, 8, 3, 2), linear_conv(8, 32))
    return nn.Sequential(conv(3, 8, 3, 2), conv(8, 8), conv(8, 16), Residual(body, shortcut), head(32))


class Scaled(nn.Module):
    """A branch with a learnt scale of its own for each channel (LayerScale, Touvron et al. 2021)."""

    def __init__(self, width):
        super().__init__()
        self.body, self.gamma = linear_conv(width, width, 3), nn.Parameter(0.1 * torch.ones(width, 1, 1))

    def forward(self, x):
        return F.relu(x + self.gamma * self.body(x))


def scaled_resnet():
    return nn.Sequential(conv(3, 24, 3, 2), Scaled(24), Scaled(24), head(24))


class DenseBlock(nn.Module):
    """Everything before is joined (Huang et al. 2017)."""

    def __init__(self, into, growth, layers):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(into + growth * i), nn.ReLU(), nn.Conv2d(into + growth * i, growth, 3, padding=1)
            )
            for i in range(layers)
        )

    def forward(self, x):
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def densenet():
    transition = nn.Sequential(nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1), nn.AvgPool2d(2))
    return nn.Sequential(conv(3, 16, 3, 2), DenseBlock(16, 8, 3), transition, DenseBlock(20, 8, 3), head(44))


class Branches(nn.Module):
    """Several paths, their channels joined (Szegedy et al. 2015)."""

    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(into, width):
    pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(into, width, 1))
    return Branches(
        conv(into, width, 1), nn.Sequential(conv(into, width, 1), conv(width, 2 * width)),
        nn.Sequential(conv(into, width, 1), conv(width, width, 5)), pooled,
    )  # fmt: skip


def googlenet():
    return nn.Sequential(conv(3, 16, 3, 2), inception(16, 8), nn.MaxPool2d(2), inception(40, 12), head(60))


def squeezenet():
    """Squeeze, then expand in two sizes (Iandola et al. 2016)."""

    def fire(into, squeeze, out):
        return nn.Sequential(conv(into, squeeze, 1), Branches(conv(squeeze, out, 1), conv(squeeze, out, 3)))

    classes = (nn.Conv2d(48, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(conv(3, 16, 3, 2), fire(16, 8, 16), nn.MaxPool2d(2), fire(32, 8, 24), *classes)


class CrossStage(nn.Module):
    """One half of the channels passes a stack of blocks, the other goes around it (CSPNet, Wang et al. 2020)."""

    def __init__(self, into, out):
        super().__init__()
        self.around, self.through = conv(into, out // 2, 1, act=nn.SiLU), conv(into, out // 2, 1, act=nn.SiLU)
        blocks = (
            nn.Sequential(conv(out // 2, out // 2, 1, act=nn.SiLU), conv(out // 2, out // 2, act=nn.SiLU)) for _ in "ab"
        )
        self.blocks = nn.ModuleList(blocks)
        self.join = conv(out, out, 1, act=nn.SiLU)

    def forward(self, x):
        y = self.through(x)
        for block in self.blocks:
            y = y + block(y)
        return self.join(torch.cat([y, self.around(x)], 1))


class FastCrossStage(nn.Module):
    """The halves of one convolution, each block's result joined in (C2f of YOLOv8)."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last = conv(width, width, 1), conv(width * 2, width, 1)
        self.blocks = nn.ModuleList(conv(width // 2, width // 2) for _ in range(2))

    def forward(self, x):
        parts = list(self.first(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.last(torch.cat(parts, 1))


class PyramidPooling(nn.Module):
    """One map pooled over and over, all of them joined (SPPF of YOLOv5)."""

    def __init__(self, width):
        super().__init__()
        self.first, self.last, self.pool = conv(width, width // 2, 1), conv(width * 2, width, 1), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        maps = [self.first(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.last(torch.cat(maps, 1))


class Detector(nn.Module):
    """A YOLO-like network with outputs at two scales, boxes and classes in one tensor each."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), CrossStage(16, 16), conv(16, 24, 3, 2))
        self.deep = nn.Sequential(FastCrossStage(24), conv(24, 32, 3, 2), PyramidPooling(32))
        self.lateral, self.join = conv(32, 24, 1), conv(48, 24)
        self.fine, self.coarse = nn.Conv2d(24, 12, 1), nn.Conv2d(32, 12, 1)

    def forward(self, x):
        middle = self.stem(x)
        low = self.deep(middle)
        high = self.join(torch.cat([F.interpolate(self.lateral(low), scale_factor=2.0), middle], 1))
        return torch.cat([self.fine(high).flatten(2), self.coarse(low).flatten(2)], 2)


IMAGE = (3, 32, 32)
NETWORKS = {
    "ResNet basic": (resnet_basic, IMAGE),
    "ResNet bottleneck": (resnet_bottleneck, IMAGE),
    "ResNet option A": (resnet_option_a, IMAGE),
    "ResNet pre-activation": (resnet_pre_activation, IMAGE),
    "ResNet-D": (resnet_d, IMAGE),
    "ResNet with LayerScale": (scaled_resnet, IMAGE),
    "ResNeXt": (resnext, IMAGE),
    "wide ResNet": (wide_resnet, IMAGE),
    "DenseNet": (densenet, IMAGE),
    "GoogLeNet": (googlenet, IMAGE),
    "SqueezeNet": (squeezenet, IMAGE),
    "YOLO-like": (Detector, IMAGE),
}
