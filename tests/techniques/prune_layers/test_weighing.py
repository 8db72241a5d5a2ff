"""What a planner is told of blocks, against networks in which they are really gone and refitted."""

import itertools

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.currency import Yardstick
from haversack.device import find_device
from haversack.graph.inference import inference
from haversack.model import Model
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.prune_layers import PruneLayers
from haversack.techniques.prune_layers.removable import without
from haversack.techniques.prune_layers.weighing import bypassed
from tests.tasks import digits_small


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(F.relu(self.one(x))))


@pytest.fixture(scope="module")
def model() -> Model:
    """Three residual blocks, trained for a moment on digits."""
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Block(12) for _ in range(3)))
    module = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(6):
        for images, target in digits_small.task().train():
            optimizer.zero_grad()
            F.cross_entropy(module(images), target).backward()
            optimizer.step()
    return Model(module.eval(), (torch.zeros(1, 1, 8, 8),))


@pytest.mark.parametrize("path", ["1.0", "1.1", "1.2", "1.0.one"])
def test_a_bypassed_block_computes_what_the_network_without_it_does(model: Model, path: str) -> None:
    short, x = bypassed(inference(model), path), torch.randn(5, 1, 8, 8)
    assert short is not None
    torch.testing.assert_close(short(x), without(model.module, [path])(x), rtol=1e-4, atol=1e-5)


def test_mixtures_rank_as_their_summed_losses_do(model: Model) -> None:
    """Blocks gone and channels left, both repaired without training; divergence on digits that repaired nothing."""
    task, held = digits_small.task(), [(digits_small.images[digits_small.test],)]
    inputs = task.calibration()
    host = find_device("host")
    layers, channels = PruneLayers.choices(model, host), PruneChannels.choices(model, host)
    assert layers is not None
    assert channels is not None
    lost = [*layers.losses(inputs), *channels.losses(inputs)]
    yardstick = Yardstick.of(model.module, held, "classification")
    said, true = [], []
    for gone, width in itertools.product(((0, 0, 0), (1, 0, 0), (0, 0, 1), (0, 1, 1)), (0, 2)):
        inner = [width if site.name.startswith("1.") and not gone[int(site.name[2])] else 0 for site in channels.sites]
        small = model
        for step in (layers.step(gone), channels.step(inner)):
            small = step.apply(small, task) if step else small
        said.append(sum(losses[option] for losses, option in zip(lost, [*gone, *inner], strict=True)))
        true.append(yardstick.nats(small.module))
    assert spearmanr(said, true).statistic > 0.8
