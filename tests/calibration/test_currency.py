"""Losses in nats: exactly, and by the outputs' curvature."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from haversack.calibration.currency import Yardstick, curvatures, nats
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
    yardstick = Yardstick.of(network(), [(inputs(),)], kind)
    assert yardstick.nats(network()) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["0", "2", "5"])
def test_small_errors_lose_what_the_curvature_says(kind: Kind, layer: str) -> None:
    """Random errors of a layer's outputs; the divergence itself is the oracle."""
    module, x = network(), inputs(256)
    folded = inference(Model(module, (x[:1],)))
    node = folded.layer_of(f"{layer}.weight")
    (found,) = curvatures(folded, [(x,)], kind, [node]).values()
    yardstick, random = Yardstick.of(module, [(x,)], kind), torch.Generator().manual_seed(2)
    channels = torch.arange(len(found)) + 1.0
    size = 0.02

    def disturbed(_: nn.Module, __: object, value: Tensor) -> Tensor:
        rows = channels.view(-1, *[1] * (value.dim() - 2))
        return value + size * rows * torch.randn(value.shape, generator=random)

    with module[int(layer)].register_forward_hook(disturbed):
        exact = sum(yardstick.nats(module) for _ in range(8)) / 8
    assert float((found * (size * channels) ** 2).sum() / 2) == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_the_fisher_information_that_autograd_s_jacobian_gives(kind: Kind) -> None:
    module, x = network(), inputs(64)
    folded = inference(Model(module, (x[:1],)))
    node = folded.layer_of("2.weight")
    (found,) = curvatures(folded, [(x,)] * 16, kind, [node]).values()
    head = module[3:]
    wanted, exact = module(x), torch.zeros(5)
    for value, outputs in zip(module[:3](x).detach(), wanted.detach(), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: head(v.unsqueeze(0))[0], value)
        likely = outputs.softmax(0)
        fisher = (
            torch.diag(likely) - likely.outer(likely)
            if kind == "classification"
            else torch.eye(4) / (4 * wanted.var(0, correction=0).mean())
        )
        exact += torch.einsum("ochw,op,pchw->c", jacobian, fisher, jacobian).detach() / len(x)
    assert found.float() == pytest.approx(exact, rel=0.1)


def test_maps_of_classes_share_a_sample_s_loss() -> None:
    """A dense classifier whose positions are all alike loses what one position does."""
    torch.manual_seed(0)
    one = nn.Conv2d(3, 4, 1).eval()
    x = torch.randn(512, 3, 1, 1)
    alone, spread = (
        curvatures(folded, [(values,)], "classification", [folded.layer_of("weight")])
        for values in (x, x.expand(-1, -1, 4, 4).contiguous())
        for folded in [inference(Model(one, (values[:1],)))]
    )
    (first,), (second,) = alone.values(), spread.values()
    assert second == pytest.approx(first, rel=0.15)


def test_outputs_that_are_no_tensor_are_said() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(TaskError, match="returned tuple"):
        Yardstick.of(Two(), [(inputs(),)], "regression")


@settings(max_examples=10)
@given(seed=st.integers(0, 50))
def test_curvatures_are_finite_and_never_negative(seed: int) -> None:
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    x = torch.randn(8, 6) * 10
    folded = inference(Model(module, (x[:1],)))
    nodes = [layer.node for layer in folded.layers()]
    for values in curvatures(folded, [(x,)], "classification", nodes).values():
        assert values.isfinite().all()
        assert (values >= 0).all()
