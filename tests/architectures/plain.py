"""Chains of layers, and fully connected networks."""

import torch
from blocks import conv, head
from torch import nn
from torch.nn import functional as F


def plain_cnn():
    return nn.Sequential(conv(3, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), conv(32, 32), head(32))


def lenet():
    """Fully connected layers behind a flattened map (LeCun et al. 1998)."""
    features = (nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2))
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(400, 60), nn.Tanh(), nn.Linear(60, 42), nn.Linear(42, 10))


class VGG(nn.Module):
    """Simonyan and Zisserman 2015; the flattened size stands in no code."""

    def __init__(self):
        super().__init__()
        layers, into = [], 3
        for width in (16, 16, 0, 32, 32, 0, 48, 48, 0):
            layers += [conv(into, width)] if width else [nn.MaxPool2d(2)]
            into = width or into
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(48 * 16, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class SpelledFlatten(nn.Module):
    """The last convolution's width stands in forward(), so that it has to stay; the others may go."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(3, 16, stride=2), conv(16, 24, stride=2), conv(24, 16, stride=2))
        self.fc = nn.Linear(16 * 16, 10)

    def forward(self, x):
        return self.fc(self.features(x).view(-1, 16 * 4 * 4))


def mlp():
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(48, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1)),
        *(nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 10)),
    )


def autoencoder():
    return nn.Sequential(
        *(nn.Linear(40, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8), nn.ReLU()),
        *(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 40)),
    )


class RepVGG(nn.Module):
    """Three parallel branches before they are merged (Ding et al. 2021)."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.wide, self.narrow = (
                linear_conv3(width),
                nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)),
            )
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x):
            return F.relu(self.wide(x) + self.narrow(x) + self.norm(x))

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            *(conv(3, 16, stride=2), self.Block(16), self.Block(16), conv(16, 32, stride=2), self.Block(32), head(32))
        )

    def forward(self, x):
        return self.net(x)


def linear_conv3(width):
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))


class Network_in_network(nn.Module):  # noqa: N801 - named after the paper
    """Lin et al. 2014: 1x1 convolutions, and classes straight from a pooled map."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(conv(3, 24, 5), conv(24, 16, 1), nn.MaxPool2d(2), conv(16, 24, 3), conv(24, 10, 1))

    def forward(self, x):
        return self.net(x).mean((2, 3))


class Siamese(nn.Module):
    """One encoder for both halves of the input, and a head on the distance of their embeddings."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            conv(3, 16, stride=2), conv(16, 24, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.out = nn.Linear(24, 2)

    def forward(self, x):
        left, right = self.encoder(x[:, :, :, :16]), self.encoder(x[:, :, :, 16:])
        return self.out((left - right).abs())


class SharedWeights(nn.Module):
    """One block, three times over."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.out = conv(3, 24, stride=2), conv(24, 24), head(24)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(3):
            x = x + self.block(x)
        return self.out(x)


class Normalised(nn.Module):
    """Embeddings of unit length, with group and instance norm on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, 2), nn.GroupNorm(4, 16)
        self.second, self.norm2 = nn.Conv2d(16, 24, 3, 2), nn.InstanceNorm2d(24, affine=True)
        self.project, self.out = nn.Linear(24, 16), nn.Linear(16, 10, bias=False)

    def forward(self, x):
        x = F.leaky_relu(self.norm(self.first(x)), 0.1)
        x = F.elu(self.norm2(self.second(x)))
        return self.out(F.normalize(self.project(x.mean((2, 3))), dim=-1))


class Maxout(nn.Module):
    """The larger of two halves of the channels, and a gated linear unit."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.gated, self.out = (
            nn.Conv2d(3, 32, 3),
            nn.Conv2d(16, 32, 3),
            nn.Conv2d(16, 24, 1),
            head(12),
        )

    def forward(self, x):
        for layer in (self.first, self.second):
            left, right = layer(x).chunk(2, dim=1)
            x = torch.maximum(left, right)
        return self.out(F.glu(self.gated(x), dim=1))


IMAGE = (3, 32, 32)
NETWORKS = {
    "plain CNN": (plain_cnn, IMAGE),
    "LeNet": (lenet, IMAGE),
    "VGG": (VGG, IMAGE),
    "spelled flatten": (SpelledFlatten, IMAGE),
    "MLP": (mlp, (3, 4, 4)),
    "FC autoencoder": (autoencoder, (40,)),
    "RepVGG": (RepVGG, IMAGE),
    "network in network": (Network_in_network, IMAGE),
    "Siamese": (Siamese, IMAGE),
    "shared weights": (SharedWeights, IMAGE),
    "norms of all kinds": (Normalised, IMAGE),
    "maxout and GLU": (Maxout, IMAGE),
}
