"""Weights go to exactly zero, where they matter least, and the zeros survive what comes after."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.errors import NothingChangedError, RecipeError
from haversack.finetune import Training, finetune
from haversack.graph.quantized import inference, tensor_of
from haversack.model import Model
from haversack.recipe import Recipe, recipe_from_toml
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.techniques.prune_weights import PruneWeights


class Net(nn.Module):
    """A residual network of 1 x 8 x 8 images with a depthwise convolution and batch norms."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depth, self.depth_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.point_norm = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.inner, self.outer = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.stem_norm(self.stem(x)))
        x = F.relu(self.depth_norm(self.depth(x)))
        x = F.relu(self.point_norm(self.point(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


WEIGHTS = {"stem.weight", "depth.weight", "point.weight", "inner.weight", "outer.weight", "head.weight"}


def images(count: int = 256) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3) / 4


def task() -> Task:
    x = images()
    y = (x.mean((2, 3)).squeeze(1) > 0).long() + 2 * (x[:, 0, 0, 0] > 0).long()

    def epoch():
        return [(x[some], y[some]) for some in torch.randperm(len(x)).split(32)]

    def score(predict):
        with torch.no_grad():
            return float((predict(x).argmax(1) == y).float().mean())

    return Task(train=epoch, calibrate=lambda: list(x.split(64)), score=score)


def model() -> Model:
    """A network whose batch norms have seen data."""
    torch.manual_seed(0)
    module = Net().train()
    for _ in range(10):
        module(images())
    return Model(module.eval(), (images(1),))


def zeros(model: Model) -> dict[str, torch.Tensor]:
    return {name: dict(model.module.named_parameters())[name] == 0 for name in sorted(model.sparse)}


def sparsity(model: Model) -> float:
    gone = list(zeros(model).values())
    return sum(int(each.sum()) for each in gone) / sum(each.numel() for each in gone)


@pytest.mark.parametrize("epochs", [0, 1, 3])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_asked_share_of_weights_is_exactly_zero_and_named(epochs, scope):
    sparse = PruneWeights(0.8, scope=scope, epochs=epochs).apply(model(), task())
    assert sparse.sparse == WEIGHTS
    assert sparsity(sparse) == pytest.approx(0.8, abs=2e-3)
    assert all((~each).any() for each in zeros(sparse).values())
    if scope == "layer":
        assert all(each.float().mean() == pytest.approx(0.8, abs=0.02) for each in zeros(sparse).values())


def test_training_keeps_the_zeros_of_an_earlier_step():
    sparse = PruneWeights(0.8, epochs=0).apply(model(), task())
    for optimizer in ("sgd", "adam"):
        after = sparse.with_module(finetune(sparse, task(), Training(epochs=2, optimizer=optimizer)))
        assert all(torch.equal(gone, zeros(after)[name]) for name, gone in zeros(sparse).items())
        assert not torch.equal(after.module.inner.weight, sparse.module.inner.weight)


LATER = {
    "prune_channels": {"keep": 0.7, "epochs": 1},
    "quantize_training": {"epochs": 1, "weight_bits": 4},
    "nearest": {"equalize": True},
    "gptq": {"weight_bits": 3},
    "learned": {"weight_bits": 3},
    "quantize_weights": {"bits": 4},
    "half": {"bits": 16},
}
TECHNIQUES = {
    **dict.fromkeys(("nearest", "gptq", "learned"), "quantize_static"),
    "half": "quantize_weights",
}


@pytest.mark.parametrize("later", sorted(LATER))
def test_zeros_survive_a_later_step(later):
    name, settings = TECHNIQUES.get(later, later), dict(LATER[later])
    if name == "quantize_static":
        settings["rounding"] = later
    sparse = PruneWeights(0.6, epochs=0).apply(model(), task())
    after = catalogue()[name](**settings).apply(sparse, task())
    assert after.sparse == sparse.sparse
    lost = sliced(zeros(sparse), after) if later == "prune_channels" else zeros(sparse)
    weights = dict(after.module.named_parameters())
    assert all(not weights[name][gone].any() for name, gone in lost.items())
    lowered = inference(after)
    assert all(not tensor_of(lowered, name)[gone].any() for name, gone in lost.items())


def sliced(found, after):
    """The masks of what is left of each weight."""
    kept = after.edits.kept
    assert kept
    return {name: _cut(mask, kept.get(name, {})) for name, mask in found.items()}


def _cut(mask, dims):
    for dim, indices in dims.items():
        mask = mask.index_select(dim, torch.tensor(indices))
    return mask
