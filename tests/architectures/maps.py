"""Networks whose output is a map: encoders with decoders."""

import torch
from blocks import conv
from torch import nn
from torch.nn import functional as F


class UNet(nn.Module):
    """Ronneberger et al. 2015."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.deep = conv(3, 12), conv(12, 24), conv(24, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 24, 2, 2), nn.ConvTranspose2d(24, 12, 2, 2)
        self.join2, self.join1, self.out = conv(48, 24), conv(24, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        x = self.up2(self.deep(F.max_pool2d(second, 2)))
        x = self.up1(self.join2(torch.cat([x, second], 1)))
        return self.out(self.join1(torch.cat([x, first], 1)))


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017) whose levels share one head, their results joined."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList((conv(3, 16, 3, 2), conv(16, 24, 3, 2), conv(24, 32, 3, 2)))
        self.laterals = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in (16, 24, 32))
        self.smooth, self.out = conv(16, 16), nn.Conv2d(16, 4, 1)

    def forward(self, x):
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        levels = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        for place in (1, 0):
            levels[place] = levels[place] + F.interpolate(levels[place + 1], scale_factor=2.0)
        return torch.cat([self.out(self.smooth(level)).flatten(2).transpose(1, 2) for level in levels], 1)


def conv_autoencoder():
    return nn.Sequential(
        *(conv(3, 16, 3, 2), conv(16, 24, 3, 2), nn.Conv2d(24, 8, 1)),
        *(nn.ConvTranspose2d(8, 24, 3, 2, 1, 1), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 3, padding=1)),
    )


class SuperResolution(nn.Module):
    """Channels become pixels at the end (Shi et al. 2016), and in the middle."""

    def __init__(self):
        super().__init__()
        self.first, self.grow, self.refine = (
            nn.Conv2d(3, 24, 5, padding=2),
            nn.Conv2d(24, 48, 3, padding=1),
            nn.Conv2d(12, 12, 3, padding=1),
        )

    def forward(self, x):
        x = F.pixel_shuffle(F.relu(self.grow(F.relu(self.first(x)))), 2)
        return F.pixel_shuffle(self.refine(F.relu(x)), 2)


class Pooled(nn.Module):
    """Dilated convolutions beside each other and the pooled context of the whole map (DeepLab, Chen et al. 2017)."""

    def __init__(self):
        super().__init__()
        self.stem, self.point = conv(3, 24, 3, 2), conv(24, 16, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(24, 16, 3, padding=rate, dilation=rate) for rate in (2, 4))
        self.context, self.join, self.out = nn.Conv2d(24, 16, 1), conv(64, 24, 1), nn.Conv2d(24, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        context = self.context(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, x.shape[2], x.shape[3])
        x = self.join(torch.cat([self.point(x), *(layer(x) for layer in self.dilated), context], 1))
        return F.interpolate(self.out(x), scale_factor=2.0, mode="bilinear", align_corners=False)


IMAGE = (3, 32, 32)
NETWORKS = {
    "U-Net": (UNet, IMAGE),
    "feature pyramid": (Pyramid, IMAGE),
    "convolutional autoencoder": (conv_autoencoder, IMAGE),
    "super-resolution": (SuperResolution, (3, 16, 16)),
    "DeepLab": (Pooled, IMAGE),
}
