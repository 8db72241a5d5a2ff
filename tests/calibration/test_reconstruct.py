import pytest
import torch
from prunable_networks import NETWORKS, build
from torch import Tensor, nn

from haversack.calibration.imitate import imitating
from haversack.calibration.sweep import reconstructed
from haversack.channels.group import edits_for
from haversack.channels.groups import channel_groups
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.surgery.edit import edit


def cut(module: nn.Module, x: Tensor, gone: int = 1) -> tuple[Model, Model]:
    """The model, and the one without the first channels of each group."""
    groups = channel_groups(trace(module, (x,)), module).groups
    edits = edits_for(module, groups, [range(min(gone, each.size - each.least), each.size) for each in groups])
    model = Model(module, (x[:1],))
    return model, model.with_module(edit(module, edits), edits)


def distance(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((ours(x) - theirs(x)).square().mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_refitted_network_is_closer_to_the_original_on_other_inputs_too(name: str) -> None:
    module, x = build(name)
    x, other = (torch.randn(96, *x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    model, small = cut(module, x)
    refitted = reconstructed(small, model, small.edits, list(zip(x.split(32), strict=True)))
    assert distance(refitted.module, module, x) < distance(small.module, module, x)
    assert distance(refitted.module, module, other) < distance(small.module, module, other)
    assert not refitted.module.training


def test_a_channel_that_is_the_sum_of_others_is_made_up_for_entirely() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).eval()
    with torch.no_grad():
        module[0].weight[0], module[0].bias[0] = module[0].weight[1:].sum(0), 3.0
    x = torch.randn(200, 4)
    model, small = cut(module, x)
    refitted = reconstructed(small, model, small.edits, [(x,)])
    assert distance(refitted.module, module, x) < 1e-4 * distance(small.module, module, x)


def test_zeros_of_pruned_weights_stay_zero() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    module[2].weight.data[:, 3:] = 0.0
    x = torch.randn(64, 4)
    model, small = cut(module, x)
    refitted = reconstructed(
        Model(small.module, small.example, sparse=frozenset({"2.weight"})), model, small.edits, [(x,)]
    )
    learned = imitating(refitted, model, small.edits, [(x,)], passes=2, seed=0)
    for each in (refitted, learned):
        assert torch.equal(each.module[2].weight == 0, small.module[2].weight == 0)
        assert not torch.equal(each.module[2].weight, small.module[2].weight)


@pytest.mark.parametrize("name", ["padded residual", "signal"])
def test_a_network_that_imitates_comes_closer_and_never_further_away(name: str) -> None:
    module, x = build(name)
    x = torch.randn(64, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    model, small = cut(module, x)
    learned, again = (imitating(small, model, small.edits, [(x,)], passes=8, seed=3) for _ in range(2))
    assert distance(learned.module, module, x) < distance(small.module, module, x)
    assert all(map(torch.equal, learned.module.state_dict().values(), again.module.state_dict().values()))


def test_in_training_a_network_that_imitates_is_the_one_that_it_is_in_use() -> None:
    module, x = build("padded residual")
    x = torch.randn(64, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    model, small = cut(module, x)
    learned = imitating(small, model, small.edits, [(x,)], passes=2, seed=3).module
    with torch.no_grad():
        torch.testing.assert_close(learned.train()(x), learned.eval()(x), rtol=1e-3, atol=1e-3)
