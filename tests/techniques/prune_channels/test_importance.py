import numpy as np
import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import nn

from haversack.channels.group import edits_for
from haversack.channels.groups import channel_groups
from haversack.errors import RecipeError, TrainingError
from haversack.graph.trace import trace
from haversack.surgery.edit import edit
from haversack.task import Task
from haversack.techniques.prune_channels.importance import Ranking, bn_scale, fpgm, l1, l2, taylor


def task_of(x: torch.Tensor, outputs: torch.Tensor) -> Task:
    target = outputs.detach() + 0.5
    return Task(train=lambda: [(x, target)], calibrate=lambda: [x], score=lambda _: 0.0, kind="regression")


def test_l2_is_the_norm_of_all_kernel_slices() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    groups = channel_groups(trace(module, (torch.randn(2, 3, 5, 5),)), module).groups
    (scores,) = l2(module, groups)
    rows, columns = module[0].weight.detach(), module[2].weight.detach()
    expected = [torch.cat([rows[c].flatten(), columns[:, c].flatten()]).norm().item() for c in range(4)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_l1_is_the_sum_of_all_magnitudes() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    groups = channel_groups(trace(module, (torch.randn(2, 3, 5, 5),)), module).groups
    rows, columns = module[0].weight.detach(), module[2].weight.detach()
    expected = [(rows[c].abs().sum() + columns[:, c].abs().sum()).item() for c in range(4)]
    np.testing.assert_allclose(l1(module, groups)[0], expected, rtol=1e-5)


def test_the_kernel_in_the_middle_of_the_others_matters_least_to_fpgm() -> None:
    module = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1)).eval()
    module[0].weight.data = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [0.1, 0.0]])
    module[2].weight.data.fill_(1.0)
    groups = channel_groups(trace(module, (torch.randn(2, 2),)), module).groups
    (scores,) = fpgm(module, groups)
    rows = module[0].weight.double()
    expected = [sum((row - other).norm().item() for other in rows) for row in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.argmin() == 4


def test_a_ranking_of_scores_adds_them_up_from_the_least() -> None:
    ranking = Ranking.of(np.array([3.0, 1.0, 2.0]))
    assert ranking.order == (1, 2, 0)
    assert ranking.losses == (0.0, 1.0, 3.0, 6.0)


def test_bn_scale_is_the_magnitude_of_gamma() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).eval()
    module[1].weight.data = torch.tensor([0.5, -2.0, 0.0, 1.0])
    groups = channel_groups(trace(module, (torch.randn(2, 3, 5, 5),)), module).groups
    np.testing.assert_allclose(bn_scale(module, groups)[0], [0.5, 2.0, 0.0, 1.0])


def test_bn_scale_needs_a_batch_norm() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).eval()
    groups = channel_groups(trace(module, (torch.randn(2, 3, 5, 5),)), module).groups
    with pytest.raises(RecipeError, match="no batch norm"):
        bn_scale(module, groups)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "transformer"])
def test_taylor_predicts_the_change_of_the_loss_of_nearly_removed_channels(name: str) -> None:
    """Shrinking a channel's columns by a small share moves the loss by that share of the Taylor term."""
    module, x = build(name)
    task = task_of(x, module(x))
    groups = channel_groups(trace(module, (x,)), module).groups
    scores = taylor(module, groups, task, seed=0)
    tensors, share = dict(module.named_parameters()), 1e-3
    (_, target), *_ = task.train()
    for group, found in zip(groups, scores, strict=True):
        before = task.error(module.double()(x.double()), target.double()).item()
        with torch.no_grad():
            for member in group.members:
                if member.reads:
                    tensors[member.tensor].index_copy_(
                        member.dim,
                        torch.tensor(member.indices[0]),
                        tensors[member.tensor].index_select(member.dim, torch.tensor(member.indices[0])) * (1 - share),
                    )
        change = task.error(module(x.double()), target.double()).item() - before
        assert (change / share) ** 2 == pytest.approx(found[0], rel=0.05, abs=1e-6)
        module.float()


def test_a_channel_that_nothing_reads_matters_least() -> None:
    module, x = build("mobile")
    module[1].project[0].weight.data[:, 5] = 0.0
    groups = channel_groups(trace(module, (x,)), module).groups
    place = next(place for place, group in enumerate(groups) if group.name == "1.expand.0")
    scores = taylor(module, groups, task_of(x, module(x)), seed=0)[place]
    assert scores[5] == 0.0
    assert scores.max() > 0.0


def test_scores_leave_the_networks_gradients_and_the_random_state_alone() -> None:
    module, x = build("dense")
    groups = channel_groups(trace(module, (x,)), module).groups
    state = torch.get_rng_state()
    taylor(module, groups, task_of(x, module(x)), seed=3)
    assert torch.equal(state, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_training_data_without_a_batch_is_an_error() -> None:
    module, x = build("dense")
    groups = channel_groups(trace(module, (x,)), module).groups
    empty = Task(train=list, calibrate=lambda: [x], score=lambda _: 0.0)
    with pytest.raises(TrainingError, match="no batches"):
        taylor(module, groups, empty, seed=0)


def test_removing_what_matters_least_hurts_less_than_removing_what_matters_most() -> None:
    module, x = build("padded residual")
    groups = channel_groups(trace(module, (x,)), module).groups
    scores = taylor(module, groups, task_of(x, module(x)), seed=0)
    gaps = []
    for sign in (-1, 1):
        kept = [sorted(np.argsort(sign * each)[: len(each) - 2].tolist()) for each in scores]
        small = edit(module, edits_for(module, groups, kept))
        gaps.append((small(x) - module(x)).square().mean().item())
    assert gaps[0] < gaps[1]
