"""Losses in nats, of networks and of forks of them."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from haversack.calibration.currency import Judge, OriginalOutputs, nats, parted
from haversack.errors import TaskError
from haversack.graph.inference import inference
from haversack.model import Model
from haversack.task import Kind

KINDS: tuple[Kind, ...] = ("classification", "regression")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(45, 4)),
    ).eval()


def inputs(count: int = 64) -> Tensor:
    return torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(1))


@given(seed=st.integers(0, 99), classes=st.integers(2, 9), heat=st.floats(0.1, 20))
def test_nats_of_classes_are_kullback_s_divergence(seed: int, classes: int, heat: float) -> None:
    random = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.randn(7, classes, generator=random, dtype=torch.float64) * heat for _ in range(2))
    p, q = theirs.softmax(1), ours.softmax(1)
    wanted = float((p * (p.clamp_min(1e-300).log() - q.clamp_min(1e-300).log())).sum(1).mean())
    assert nats(ours, theirs, "classification") == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5))
def test_nats_of_values_do_not_depend_on_their_unit(seed: int, scale: float, shift: float) -> None:
    random = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.randn(20, 3, generator=random, dtype=torch.float64) for _ in range(2))
    before = nats(ours, theirs, "regression")
    assert nats(ours * scale + shift, theirs * scale + shift, "regression") == pytest.approx(before, rel=1e-6)
    mean = theirs.mean(0).expand_as(theirs)
    assert nats(mean, theirs, "regression") == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_no_nats_away_from_itself(kind: Kind) -> None:
    yardstick = OriginalOutputs.of(network(), [(inputs(),)], kind)
    assert yardstick.nats(network()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_with_other_weights_is_as_far_away_as_the_network_with_them(kind: Kind) -> None:
    """All samples at once in a module of its own are the oracle."""
    module, x = network(), inputs(40)
    folded = inference(Model(module, (x[:1],)))
    judge = Judge.of(folded, (x,), kind)
    wanted = module(x).detach()
    for layer in (2, 5):
        fork = judge.before(folded.layer_of(f"{layer}.weight")).fork()
        fork.tensors[f"{layer}.weight"] = module[layer].weight.detach() * 0.7
        other = copy.deepcopy(module)
        with torch.no_grad():
            other[layer].weight *= 0.7
            assert judge.nats(fork) == pytest.approx(nats(other(x), wanted, kind), rel=1e-4)
    assert judge.nats(judge.lane.fork()) == pytest.approx(0, abs=1e-7)


def test_outputs_that_are_no_tensor_are_said() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x}

    with pytest.raises(TaskError, match="returned dict"):
        OriginalOutputs.of(Named(), [(inputs(),)], "regression")


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_no_input_both_repairs_and_judges_where_there_are_two(count: int) -> None:
    fitted, held = parted(inference(Model(network(), (inputs(1),))), [(inputs(count),)], 1)
    assert torch.equal(torch.cat([fitted[0], held[0]]), inputs(count) if count > 1 else inputs(1).repeat(2, 1, 1, 1))
