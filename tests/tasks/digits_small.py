"""The tests' own task: a small CNN on scikit-learn's digits, trained in about a second."""

import functools

import torch
from sklearn.datasets import load_digits
from torch import nn

from haversack import Task

digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
train, test = order[:1200], order[1200:]


def batches():
    return [(images[some], labels[some]) for some in train[torch.randperm(len(train))].split(100)]


@functools.cache
def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for inputs, target in batches() + batches() + batches() + batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), target).backward()
        optimizer.step()
    return net.eval()


def task():
    return Task(
        train=batches,
        calibrate=lambda: images[train[:200]].split(50),
        score=lambda predict: (predict(images[test]).argmax(1) == labels[test]).float().mean().item(),
    )
