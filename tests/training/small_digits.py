"""Handwritten digits, a small network that reads them, and what tests of its training share."""

import copy
import functools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from haversack.model import Model
from haversack.task import Task
from haversack.training import Training, finetune

SHORT = Training(epochs=1)


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(found.target)[order]


def epoch():
    """Batches in the order of torch's own random state."""
    images, labels = digits()
    return [(images[some], labels[some]) for some in torch.randperm(1300).split(64)]


def accuracy(predict) -> float:
    images, labels = digits()
    with torch.no_grad():
        return (predict(images[1300:]).argmax(1) == labels[1300:]).float().mean().item()


def digits_task(train=epoch, **changes) -> Task:
    return Task(train=train, calibrate=lambda: [digits()[0][:64]], score=accuracy, **changes)


def unlabelled():
    return [(images,) for images, _ in epoch()]


def blank() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


@functools.cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    return finetune(Model(blank(), (digits()[0][:1],)), digits_task(), Training(epochs=8))


def broken() -> nn.Module:
    """The trained network with a fresh last layer."""
    module = copy.deepcopy(trained())
    torch.manual_seed(1)
    module[-1].reset_parameters()
    return module


def model(module: nn.Module, teacher: nn.Module | None = None) -> Model:
    return Model(module, (digits()[0][:1],), teacher=teacher)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def small(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*layers)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def refusal(kind, start, task, training=SHORT) -> str:
    with pytest.raises(kind) as caught:
        finetune(start, task, training)
    assert caught.value.mend
    return str(caught.value)


class Told:
    """A listener that remembers what was said."""

    def __init__(self) -> None:
        self.lines = []

    def track(self, items, label, total):
        yield from items

    def say(self, line):
        self.lines.append(line)
