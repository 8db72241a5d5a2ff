"""A task for haversack: handwritten digits, 8 x 8 pixels, a small CNN trained here in seconds."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn

from haversack import Task

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, choose, test = order[:1200], order[1200:1500], order[1500:]


def batches(seed=None):
    """One epoch of shuffled training batches."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    shuffled = train[torch.randperm(len(train), generator=generator)]
    return [(images[some], labels[some]) for some in shuffled.split(64)]


def score(predict):
    """Share of the digits that are read correctly, of those by which a file is chosen."""
    return (predict(images[choose]).argmax(1) == labels[choose]).float().mean().item()


def validate(predict):
    """The same of digits that decide nothing, for the file that was chosen."""
    return (predict(images[test]).argmax(1) == labels[test]).float().mean().item()


def block(inputs, outputs, stride=1):
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


@functools.cache
def network():
    """The trained network."""
    torch.manual_seed(0)
    layers = [block(1, 32), block(32, 64, 2), block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    net = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for epoch in range(12):
        for inputs, target in batches(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs), target).backward()
            optimizer.step()
    return net.eval()


def task():
    """What the network is for."""
    return Task(train=batches, calibrate=lambda: images[train[:256]].split(64), score=score, validate=validate)
