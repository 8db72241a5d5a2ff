"""What a planner is told of blocks, against networks in which they are really gone and refitted."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.calibration.currency import OriginalOutputs
from haversack.calibration.lane import Lane, Span
from haversack.device import find_device
from haversack.graph.inference import inference
from haversack.model import Model
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.prune_layers import PruneLayers
from haversack.techniques.prune_layers.removable import without
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
    folded, x = inference(model), torch.randn(5, 1, 8, 8)
    span, lane = Span.of(folded.graph, path), Lane(folded.module, [(x,)])
    assert span is not None
    lane.run(0, next(node for node in lane.nodes if node in span.inside), inclusive=False)
    for fork, wanted in ((lane.fork(without=span), without(model.module, [path])), (lane, model.module)):
        fork.run(0, fork.nodes[-1], inclusive=False)
        result = fork.read(0, fork.nodes[-1].all_input_nodes[0])
        torch.testing.assert_close(result, wanted(x), rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_networks_that_are_really_smaller_and_repaired(model: Model) -> None:
    """Blocks gone or channels left, repaired without training; divergence on digits that repaired nothing."""
    inputs = [(digits_small.images[digits_small.train[:300]],)]
    task = replace(digits_small.task(), calibrate=lambda: inputs)
    host = find_device("host")
    layers, channels = PruneLayers.choices(model, host), PruneChannels.choices(model, host)
    assert layers is not None
    assert channels is not None
    yardstick = OriginalOutputs.of(model.module, [(digits_small.images[digits_small.test],)], "classification")
    said, true = [], []
    for choices, places in ((layers, (0, 1, 2)), (channels, (0, 2))):
        lost = choices.losses(inputs)
        for place in places:
            step = choices.step([(len(losses) - 1) * (other == place) for other, losses in enumerate(lost)])
            assert step is not None
            said.append(lost[place][-1])
            true.append(yardstick.nats(step.apply(model, task).module))
    assert said[:3] == pytest.approx(true[:3], rel=0.5)
    # Layers further behind make up for channels, too.
    assert all(0.5 < loss / real < 6 for loss, real in zip(said[3:], true[3:], strict=True))
    assert spearmanr(said, true).statistic > 0.8
