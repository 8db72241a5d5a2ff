"""What the architectures share."""

from torch import nn


def conv(into: int, out: int, size: int = 3, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU):
    layers = [nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, act())


def linear_conv(into: int, out: int, size: int = 1, stride: int = 1, groups: int = 1):
    return conv(into, out, size, stride, groups, nn.Identity)


def head(width: int, classes: int = 10):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
