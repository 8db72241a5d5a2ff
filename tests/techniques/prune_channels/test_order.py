import itertools

import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import Tensor, nn

from haversack.channels.groups import channel_groups
from haversack.errors import TaskError
from haversack.graph.inference import inference
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import shown_by
from haversack.techniques.prune_channels import order
from haversack.techniques.prune_channels.order import readings, second_order
from tests.heard import Heard


def ranking(module: nn.Module, x: Tensor, place: int = 0) -> order.Ranking:
    model = Model(module, (x[:1],))
    return second_order(model, channel_groups(trace(module, (x,)), module).groups, [(x,)])[place]


def left_over(inputs: Tensor, wanted: Tensor) -> float:
    """What least squares with a bias leaves of the squared error, relative to the variance; torch's own solver."""
    columns = torch.cat([inputs, torch.ones(len(inputs), 1)], 1).double()
    found = columns @ torch.linalg.lstsq(columns, wanted.double(), driver="gelsd").solution
    return float((found - wanted).square().mean(0).sum() / wanted.double().var(0, correction=0).sum())


def test_losses_are_what_least_squares_cannot_make_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "_RIDGE", 1e-9)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(400, 6)
    found = ranking(module, x)
    with torch.no_grad():
        hidden, wanted = module[:2](x), module(x)
    for gone in range(1, 5):
        stay = sorted(set(range(5)) - set(found.order[:gone]))
        assert found.losses[gone] == pytest.approx(left_over(hidden[:, stay], wanted), rel=1e-3, abs=1e-6)
    first = min(range(5), key=lambda gone: left_over(hidden[:, [c for c in range(5) if c != gone]], wanted))
    assert found.order[0] == first


def test_a_copy_of_another_channel_goes_first_however_large_it_is() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    with torch.no_grad():
        module[0].weight[4], module[0].bias[4] = 3 * module[0].weight[1], 3 * module[0].bias[1]
    found = ranking(module, torch.randn(40, 3, 8, 8))
    assert found.order[0] in (1, 4)
    assert found.losses[1] < 0.05 * found.losses[2]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_gets_all_its_channels_ranked_and_losses_that_rise(name: str) -> None:
    module, x = build(name)
    groups = channel_groups(trace(module, (x,)), module).groups
    x = torch.cat([x, torch.randn(14, *x.shape[1:])])
    for group, found in zip(groups, second_order(Model(module, (x[:1],)), groups, [(x,)]), strict=True):
        assert sorted(found.order) == list(range(group.size))
        assert len(found.losses) == group.size + 1
        assert all(low <= high for low, high in itertools.pairwise(found.losses))


def test_what_cannot_be_cut_is_said_and_ranked_by_its_norms() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3)).eval()
    x, said = torch.randn(4, 3, 8, 8), Heard()
    groups = channel_groups(trace(module, (x,)), module).groups
    assert readings(inference(Model(module, (x,))), groups[0]) is None
    with shown_by(said):
        (found,) = second_order(Model(module, (x,)), groups, [(x,)])
    norms = module[0].weight.flatten(1).square().sum(1) + module[2].weight.flatten(1).square().sum(1)
    assert list(found.order) == norms.argsort().tolist()
    assert said.lines == ["ranked by their kernels' norms: the channels of 0."]


def test_inputs_that_are_no_numbers_are_an_error() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    module[0].weight.data.fill_(float("inf"))
    with pytest.raises(TaskError, match="NaN or infinity"):
        ranking(module, torch.randn(8, 4))
