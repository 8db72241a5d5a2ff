import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from deadened import deadened
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_networks import build, settled
from random_networks import Does, chooser, network
from torch import Tensor, nn
from torch.nn import functional as F

from haversack import progress
from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError, SurgeryError
from haversack.model import Model, Swap
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.prune_dead_channels import PruneDeadChannels
from tests import warm
from tests.sweep import count


def no_data() -> Task:
    return Task(train=list, calibrate=None, score=lambda _: 0.0)


def pruned(module: nn.Module, x: Tensor, step: PruneDeadChannels | None = None) -> Model:
    """The network without its dead channels, after a look whether it computes the same."""
    small = (step or PruneDeadChannels()).apply(Model(module, (x[:1],)), no_data())
    with torch.no_grad():
        wanted, found = module(x), small.module(x)
    assert float((wanted - found).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))
    return small


def widths(module: nn.Module) -> list[int]:
    return [layer.weight.shape[0] for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]


def still(layer: nn.Module, constants: dict[int, float], factor: float = 0.0) -> None:
    """Makes filters nothing but a constant."""
    with torch.no_grad():
        for index, constant in constants.items():
            layer.weight[index] *= factor
            layer.bias[index] = constant


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).eval()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("factor", [0.0, 1e-20])
def test_constants_go_into_the_bias_of_a_layer_that_pads_nothing(factor: float) -> None:
    module = chain(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3))
    still(module[0], {0: -1.0, 2: 0.7, 5: 2.0}, factor)
    still(module[2], {1: 0.5}, factor)
    small = pruned(module, IMAGES)
    assert widths(small.module) == [3, 3, 2]
    assert not any(isinstance(change, Swap) for change in small.edits.changes)


def test_one_constant_channel_carries_all_others_where_zeros_are_padded() -> None:
    module = chain(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3, padding=1))
    still(module[0], {0: -1.0, 1: 0.7, 2: 2.0, 4: 0.3})
    assert widths(pruned(module, IMAGES).module) == [3, 4]


def test_a_live_channel_is_no_carrier() -> None:
    module = chain(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1))
    still(module[0], {1: 0.7})
    with pytest.raises(NothingChangedError):
        PruneDeadChannels().apply(Model(module, (IMAGES[:1],)), no_data())


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_that_padding_makes_vary_go_once_others_span_them(stride: int) -> None:
    depthwise = nn.Conv2d(30, 30, 3, stride, 1, groups=30)
    module = chain(nn.Conv2d(3, 30, 1), nn.ReLU(), depthwise, nn.Hardswish(), nn.Conv2d(30, 5, 1))
    still(module[0], {index: 1.0 + index / 7 for index in range(28)})
    small = pruned(module, IMAGES)
    # Nine places differ: corners, edges and the middle. A constant map goes to the bias.
    assert small.module[0].weight.shape[0] == {1: 2 + 8, 2: 2 + 3}[stride]


def test_a_unit_that_a_filter_of_one_sign_never_opens_is_dead_for_any_input() -> None:
    module = chain(
        nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    with torch.no_grad():
        module[2].weight[2] = -module[2].weight[2].abs()
        module[2].bias[2] = 0.0
    assert widths(pruned(module, 1e3 * IMAGES).module) == [3, 3, 2]


def test_a_channel_that_no_layer_multiplies_by_anything_goes_though_it_moves() -> None:
    module = chain(nn.Conv2d(3, 5, 3), nn.Tanh(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        module[2].weight[:3, 1] = 0.0
        module[4].weight[:, 3] = 0.0
    # Channel 1 of the first layer is read by nothing but channel 3 of the second, and that by nothing.
    assert widths(pruned(module, IMAGES).module) == [4, 3, 2]


def test_a_channel_that_only_looks_dead_on_the_data_stays() -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    images = torch.rand(64, 3, 6, 6)
    with torch.no_grad():
        module[0].bias[1] = -1.0 - module[0].weight[1].abs().sum()
        assert float(module[:2](images)[:, 1].max()) == 0.0
    with pytest.raises(NothingChangedError, match="no channel is dead"):
        PruneDeadChannels().apply(Model(module, (images[:1],)), no_data())


def test_it_goes_once_the_limit_of_the_inputs_proves_it() -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        module[0].bias[1] = -1.0 - module[0].weight[1].abs().sum()
    example = torch.full((1, 3, 6, 6), 0.1)
    assert widths(pruned(module, example, PruneDeadChannels(input_limit=1.0)).module) == [3, 2]


def test_the_limit_follows_an_example_of_large_numbers() -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        module[0].bias[1] = -1.0 - module[0].weight[1].abs().sum()
    with pytest.raises(NothingChangedError):
        PruneDeadChannels(input_limit=1.0).apply(Model(module, (IMAGES[:1],)), no_data())


def test_a_batch_norm_behind_the_layer_takes_the_constant() -> None:
    module = settled(chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU()))
    still(module[0], {1: 0.5})
    mean = module[3].running_mean.clone()
    small = pruned(module, IMAGES)
    assert widths(small.module) == [3, 2]
    assert small.module[2].bias is None
    assert not torch.equal(small.module[3].running_mean, mean)


class Plain(nn.Module):
    """A layer without a bias reads constants, and no batch norm follows."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3)
        self.two = nn.Conv2d(6, 4, 2, stride=2, bias=False)
        self.head = nn.Linear(16, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.two(F.relu(self.one(x)))).flatten(1))


def plain() -> Plain:
    module = Plain().eval()
    still(module.one, {1: 0.5, 2: -1.0, 3: 0.25})
    return module


def test_a_layer_without_any_bias_is_given_one() -> None:
    small = pruned(plain(), IMAGES)
    assert widths(small.module) == [3, 4, 2]
    assert small.module.two.bias is not None
    assert [change.path for change in small.edits.changes if isinstance(change, Swap)] == ["two"]


def test_the_bias_given_to_a_layer_follows_when_it_loses_filters_itself() -> None:
    module = plain()
    with torch.no_grad():
        module.head.weight[:, 4:8] = 0.0
    small = pruned(module, IMAGES)
    assert widths(small.module) == [3, 3, 2]
    assert small.module.two.bias.shape == (3,)


def test_the_result_is_the_same_once_loaded_in_another_process(tmp_path: Path) -> None:
    small = pruned(plain(), IMAGES)
    save(small, tmp_path)
    torch.save(IMAGES, tmp_path / "images.pt")
    code = f"""
import sys, torch
sys.path[:0] = {sys.path!r}
from pathlib import Path
from test_prune_dead_channels import Plain, load
folder = Path({str(tmp_path)!r})
images = torch.load(folder / "images.pt")
torch.save(load(Plain(), folder, (images[:1],)).module(images).detach(), folder / "outputs.pt")
"""
    warm.run(code)
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "outputs.pt"), small.module(IMAGES))
        assert torch.equal(load(Plain(), tmp_path, (IMAGES[:1],)).module(IMAGES), small.module(IMAGES))


class Residual(nn.Module):
    """Two layers whose sum is read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.end = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(F.relu(self.a(x) + self.b(x)))


def test_a_sum_goes_only_where_all_that_it_is_made_of_is_still() -> None:
    module = Residual().eval()
    still(module.a, {0: 1.0, 1: 1.0, 3: -0.2})
    still(module.b, {1: -0.5, 2: 0.3, 3: -0.2})
    assert widths(pruned(module, IMAGES).module) == [3, 3, 2]


class Twice(nn.Module):
    """One layer run twice: its bias cannot take what only one of its inputs loses."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.shared = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(F.relu(self.one(x))) * self.shared(F.relu(self.two(x)))


def test_a_shared_layer_loses_what_is_zero_for_all_its_uses_and_nothing_else() -> None:
    module = Twice().eval()
    still(module.one, {0: -1.0, 1: 1.0, 2: -1.0})
    still(module.two, {0: -1.0, 1: 1.0, 3: -1.0})
    assert widths(pruned(module, IMAGES).module) == [3, 3, 2]


COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean over channels": lambda x: x - x.mean(1, keepdim=True),
    "largest channel": lambda x: x + x.amax(1, keepdim=True),
    "softmax": lambda x: F.softmax(x, 1),
    "layer norm": lambda x: F.layer_norm(x.movedim(1, -1), (4,)).movedim(-1, 1),
    "norm": lambda x: x / (1 + x.norm(dim=1, keepdim=True)),
    "matrix": lambda x: (x.flatten(2) @ x.flatten(2).mT).unsqueeze(-1),
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_dead_channel_stays_where_its_neighbours_are_mixed_with_it(name: str) -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), Does(name, COUNTS[name]), nn.Conv2d(4, 2, 1))
    still(module[0], {1: -1.0})
    with pytest.raises(NothingChangedError):
        PruneDeadChannels().apply(Model(module, (IMAGES[:1],)), no_data())


def test_code_that_counts_its_channels_is_refused() -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), Does("scaled", lambda x: x / x.shape[1]), nn.Conv2d(4, 2, 1))
    still(module[0], {1: -1.0})
    with pytest.raises(SurgeryError, match="computes something else"):
        PruneDeadChannels().apply(Model(module, (IMAGES[:1],)), no_data())


def test_a_layer_that_is_all_dead_keeps_one_channel() -> None:
    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    still(module[2], dict.fromkeys(range(4), -1.0))
    assert widths(pruned(module, IMAGES).module)[1] == 1


def test_a_network_without_dead_channels_gets_no_options() -> None:
    module, x = build("padded residual")
    assert list(PruneDeadChannels.options(Model(module, (x[:1],)), find_device("host"))) == []


def test_layers_keep_a_multiple_filled_up_with_channels_that_nothing_reads() -> None:
    module = chain(nn.Conv2d(3, 20, 1), nn.ReLU(), nn.Conv2d(20, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 2, 1))
    still(module[0], dict.fromkeys(range(2, 15), 0.5))
    still(module[2], {0: 1.0, 1: -1.0, 2: 1.0})
    small = pruned(module, IMAGES, PruneDeadChannels(multiple=8))
    # Of 20 channels, 7 live and one carries: 8. Of 12, 9 live: 12 stay, which are no multiple either way.
    assert widths(small.module) == [8, 12, 2]
    assert bool((small.module[4].weight[:, :3] == 0).all())
    with pytest.raises(NothingChangedError, match="3 channels are dead, but"):
        PruneDeadChannels(multiple=8).apply(small, no_data())


def test_what_went_is_told() -> None:
    lines: list[str] = []

    class Listener:
        def say(self, line: str) -> None:
            lines.append(line)

        def track(self, items: object, *_: object) -> object:
            return items

    module = chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    still(module[0], {1: -1.0, 2: 1.0})
    with progress.shown_by(Listener()):
        pruned(module, IMAGES)
    assert lines == ["dead channels removed: 2 of 4 of 0"]


@pytest.mark.parametrize(
    "wrong",
    [{"tolerance": -1.0}, {"tolerance": 1.0}, {"input_limit": 0.0}, {"multiple": 0}, {"input_limit": float("inf")}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RecipeError) as caught:
        PruneDeadChannels(**wrong)
    assert caught.value.mend


@pytest.mark.parametrize("name", ["padded residual", "mobile", "dense", "signal", "excited", "grouped", "upscale"])
def test_networks_of_every_build_shrink_and_stay_as_they_are(name: str) -> None:
    module, x = build(name)
    small = pruned(deadened(module, chooser(3)), x)
    assert sum(p.numel() for p in small.module.parameters()) < 0.95 * sum(p.numel() for p in module.parameters())


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@given(st.integers(0, 100_000))
@settings(max_examples=count(12, 300))
def test_random_networks_stay_as_they_are_without_their_dead_channels(seed: int) -> None:
    module, shape = network(chooser(seed), most=7)
    try:
        pruned(deadened(module, chooser(seed)), torch.randn(4, *shape))
    except NothingChangedError:
        return
