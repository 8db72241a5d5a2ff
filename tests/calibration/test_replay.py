"""Running a network again from one layer on gives what running all of it gives."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack.calibration.replay import Replay, samples
from haversack.graph.inference import inference
from haversack.model import Model


class Branched(nn.Module):
    """A residual sum, a layer without a bias, and one whose weight two places read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1, bias=False)
        self.twice, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = (x + F.relu(self.side(x))).mean((2, 3))
        return self.head(F.relu(self.twice(F.relu(self.twice(x)))))


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(Branched().eval(), (torch.randn(1, 1, 6, 6),))


def divergence(wanted: torch.Tensor, outputs: torch.Tensor) -> float:
    return float(F.kl_div(outputs.log_softmax(1), wanted.log_softmax(1), reduction="batchmean", log_target=True))


def test_a_weight_that_is_the_same_loses_nothing(model):
    folded, inputs = inference(model), torch.randn(40, 1, 6, 6)
    replay = Replay(folded, [(inputs,)], 1, normed=True)
    for name in ("stem.weight", "side.weight", "twice.weight", "head.weight"):
        assert replay.losses(name, [folded.tensor(name)]) == pytest.approx([0], abs=1e-6)


@pytest.mark.parametrize("name", ["side.weight", "head.weight"])
def test_the_loss_is_the_divergence_of_the_whole_network(model, name):
    """`side` has no bias that could make up for anything; the mean that `head` moves is taken out by hand."""
    folded, inputs = inference(model), torch.randn(40, 1, 6, 6)
    other = folded.tensor(name) * -4
    with torch.no_grad():
        wanted, outputs = model.module(inputs), folded.with_tensors({name: other})(inputs)
    if name == "head.weight":
        outputs = outputs + (wanted - outputs).mean(0)
    said = Replay(folded, [(inputs,)], 1, normed=False).losses(name, [other])
    assert said == pytest.approx([divergence(wanted, outputs)], rel=1e-3)


def test_much_work_means_fewer_samples_and_never_none(model):
    folded = inference(model)
    assert [samples(folded, work) for work in (1, 1e9, 1e30)] == [256, 60, 32]


def test_outputs_that_are_no_scores_count_by_their_variance():
    model = Model(nn.Sequential(nn.Linear(3, 1)).eval(), (torch.randn(1, 3),))
    folded, inputs = inference(model), torch.randn(64, 3)
    said = Replay(folded, [(inputs,)], 1, normed=False, kind="regression").losses("0.weight", [torch.zeros(1, 3)])
    assert said == pytest.approx([0.5], rel=0.05)
