"""Which blocks go, by measured loss and measured time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.choices import Gone
from haversack.device import find_device
from haversack.errors import NothingChangedError, RecipeError
from haversack.model import Edits, Model, Swap
from haversack.recipe import Recipe, recipe_from_toml
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.prune_layers import PruneLayers
from haversack.techniques.prune_layers.removable import joining, without
from tests import warm


class Block(nn.Module):
    """A residual block; `strength` scales what it adds."""

    def __init__(self, width: int, strength: float) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        nn.init.constant_(self.norm.weight, strength)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class Net(nn.Module):
    """Four residual blocks, of which the third is nearly the identity and the second does little."""

    def __init__(self, strengths: Sequence[float] = (1.0, 0.1, 0.001, 0.5)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(8, strength) for strength in strengths))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    images, target = torch.randn(64, 1, 8, 8, generator=generator), torch.arange(64) % 4

    def score(predict: object) -> float:
        return float((predict(images).argmax(1) == target).float().mean())

    return Task(
        train=lambda: [(images[:32], target[:32]), (images[32:], target[32:])],
        calibrate=lambda: list(images.split(32)),
        score=score,
    )


def model(network: nn.Module | None = None) -> Model:
    """The network with batch statistics as they are."""
    torch.manual_seed(0)
    module, images = (network or Net()).train(), torch.cat(list(task().calibrate()))
    with torch.no_grad():
        for _ in range(50):
            module(images)
    return Model(module.eval(), (images[:1],))


def gone(found: Model) -> list[str]:
    return [change.path for change in found.edits.changes if isinstance(change, Swap)]


@dataclass(frozen=True)
class Clock:
    """A runtime in which every block takes the milliseconds that `costs` names, and all else takes 10."""

    costs: tuple[float, ...]

    def latencies_ms(self, models: Sequence[Model]) -> list[float]:
        return [self.latency_ms(each) for each in models]

    def latency_ms(self, found: Model) -> float:
        blocks = zip(found.module.blocks, self.costs, strict=True)
        return 10 + sum(cost for block, cost in blocks if isinstance(block, Block))

    def flash_bytes(self, model: Model) -> int:
        raise NotImplementedError


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_the_block_that_is_nearly_the_identity_goes_first_and_the_strongest_last() -> None:
    order = gone(PruneLayers(keep=0.07, of="macs", epochs=0).apply(model(), task()))
    assert order == ["blocks.2", "blocks.1", "blocks.3", "blocks.0"]


@pytest.mark.parametrize(("keep", "count"), [(0.95, 1), (0.7, 2), (0.5, 3)])
def test_no_more_blocks_go_than_the_fraction_asks_for(keep: float, count: int) -> None:
    found = PruneLayers(keep=keep, of="parameters", epochs=0).apply(model(), task())
    assert len(gone(found)) == count
    assert parameters(found.module) <= keep * parameters(model().module)


def test_regression_and_reconstruction_measure_the_distance_of_their_outputs() -> None:
    ours = replace(task(), kind="regression", train=lambda: [(torch.randn(4, 1, 8, 8), torch.randn(4, 4))])
    assert gone(PruneLayers(keep=0.9, of="macs", epochs=0).apply(model(), ours)) == ["blocks.2"]


class Slow(Block):
    """A block of another build."""


def test_a_block_that_saves_more_time_goes_before_one_of_like_loss() -> None:
    torch.manual_seed(0)
    network = Net((0.1, 0.1, 0.1, 0.1))
    network.blocks[3] = Slow(8, 0.1)
    timed = replace(model(network), target=Clock((1.0, 1.0, 1.0, 8.0)))
    assert gone(PruneLayers(keep=0.65, of="macs", epochs=0).apply(timed, task())) != ["blocks.3"]
    assert gone(PruneLayers(keep=0.65, epochs=0).apply(timed, task())) == ["blocks.3"]


def test_a_removal_that_the_runtime_does_not_notice_is_left_alone() -> None:
    timed = replace(model(), target=Clock((0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(NothingChangedError, match="no removal saves latency"):
        PruneLayers(keep=0.9).apply(timed, task())


def test_latency_is_what_the_target_measures() -> None:
    timed = replace(model(), target=Clock((5.0, 5.0, 5.0, 5.0)))
    found = PruneLayers(keep=0.7, epochs=0).apply(timed, task())
    assert len(gone(found)) == 2
    assert timed.target.latency_ms(found) <= 0.7 * timed.target.latency_ms(timed)


def test_a_fraction_out_of_reach_names_the_smallest_one() -> None:
    timed = replace(model(), target=Clock((5.0, 5.0, 5.0, 5.0)))
    with pytest.raises(RecipeError, match=r"smallest fraction of latency in reach is 0\.333"):
        PruneLayers(keep=0.3).apply(timed, task())


class Widening(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.relu(self.one(x))).mean((2, 3))


def test_a_network_without_a_block_to_remove_says_why() -> None:
    with pytest.raises(NothingChangedError, match="one: it turns 1x8x8 into 8x6x6"):
        PruneLayers().apply(model(Widening()), task())
    assert list(PruneLayers.options(model(Widening()), find_device("host"))) == []


def test_the_layers_that_are_left_are_refitted_and_training_keeps_what_that_wins() -> None:
    original, inputs = model(), torch.cat(list(task().calibrate()))
    unlabelled = replace(task(), kind="regression", train=lambda: [(inputs,)] * 8)
    refitted = PruneLayers(keep=0.5, of="macs", epochs=0).apply(original, unlabelled)
    trained = PruneLayers(keep=0.5, of="macs", epochs=4, learning_rate=0.02).apply(original, unlabelled)

    def distance(module: nn.Module) -> float:
        with torch.no_grad():
            return float(F.mse_loss(module(inputs), original.module(inputs)))

    cut = distance(without(original.module, gone(refitted)))
    assert distance(refitted.module) < 0.5 * cut
    assert distance(trained.module) < 0.5 * cut
    assert trained.teacher is original.module
    assert gone(trained) == gone(refitted)


@pytest.mark.parametrize(
    "wrong", [{"keep": 0.0}, {"keep": 1.0}, {"of": "time"}, {"epochs": -1}, {"learning_rate": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        PruneLayers(**wrong)


def test_settings_survive_toml() -> None:
    recipe = Recipe((PruneLayers(keep=0.6, of="parameters", epochs=3),))
    assert recipe_from_toml(recipe.to_toml(), {"prune_layers": PruneLayers}) == recipe


def test_options_stop_at_what_is_in_reach() -> None:
    steps = [step for step in PruneLayers.options(model(), find_device("host")) if step.of == "latency"]
    assert [step.keep for step in steps[:2]] == [0.95, 0.9]
    PruneLayers(keep=steps[-1].keep, epochs=0).apply(model(), task())


def test_weights_changed_in_place_are_measured_anew() -> None:
    original, step = model(), PruneLayers(keep=0.9, of="macs", epochs=0)
    assert gone(step.apply(original, task())) == ["blocks.2"]
    with torch.no_grad():
        original.module.blocks[2].norm.weight.fill_(2.0)
        original.module.blocks[0].norm.weight.fill_(1e-4)
    assert gone(step.apply(original, task())) == ["blocks.0"]


def test_a_block_removed_twice_over_two_steps_is_saved_and_rebuilt_in_another_process(tmp_path: Path) -> None:
    once = PruneLayers(keep=0.9, of="macs", epochs=0).apply(model(), task())
    twice = PruneLayers(keep=0.7, of="macs", epochs=0).apply(once, task())
    assert gone(twice) == ["blocks.2", "blocks.1"]
    save(twice, tmp_path)
    x = torch.ones(1, 1, 8, 8)
    code = (
        "import sys, torch; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from haversack.surgery.save import load; from test_prune_layers import Net\n"
        "x = torch.ones(1, 1, 8, 8); print(load(Net(), Path(sys.argv[1]), (x,)).module(x).tolist())"
    )
    here = Path(__file__)
    folders = (str(here.parent), str(here.parents[2]))
    told = eval(warm.run(code, tmp_path, *folders))
    assert torch.allclose(torch.tensor(told), twice.module(x), rtol=0, atol=1e-6)
    assert load(Net(), tmp_path, (x,)).edits == twice.edits != Edits()


def test_blocks_go_from_a_network_whose_channels_went_before() -> None:
    narrow = PruneChannels(keep=0.7, importance="l1", correct="nothing", epochs=0, imitate=0).apply(model(), task())
    both = PruneLayers(keep=0.6, of="macs", epochs=0).apply(narrow, task())
    assert gone(both)
    assert both.module.stem.out_channels == narrow.module.stem.out_channels < 8
    assert both.teacher is narrow.teacher


def test_layers_that_are_spelled_out_go_and_survive_toml() -> None:
    step, original = PruneLayers(layers=("blocks.3", "blocks.1"), epochs=0), model()
    small = step.apply(original, task())
    assert gone(small) == ["blocks.1", "blocks.3"]
    assert small.teacher is original.module
    recipe = Recipe((step,))
    assert recipe_from_toml(recipe.to_toml(), {"prune_layers": PruneLayers}) == recipe
    assert gone(recipe.skeleton().apply(original, task())) == ["blocks.1", "blocks.3"]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (("blocks.1", "blocks.1"), "names blocks.1 twice"),
        (("stem",), "stem, which cannot go: it turns"),
        (("nothing",), "nothing, which cannot go"),
        (("",), "layers holds ''"),
    ],
)
def test_layers_that_cannot_go_are_named(layers: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        PruneLayers(layers=layers, refit=False, epochs=0).apply(model(), task())
    assert caught.value.mend


def test_choices_are_blocks_and_those_that_do_little_lose_little() -> None:
    choices = PruneLayers.choices(model(), find_device("host"))
    assert choices is not None
    assert [site.name for site in choices.sites] == [f"blocks.{number}" for number in range(4)]
    assert choices.sites[2].options[1].effect == Gone("blocks.2")
    lost = [losses[1] for losses in choices.losses(task().calibration(), "classification")]
    assert lost[2] < lost[1] < min(lost[0], lost[3])
    step = choices.step((0, 1, 1, 0))
    assert step is not None
    assert gone(step.apply(model(), task())) == ["blocks.1", "blocks.2"]
    assert choices.step((0, 0, 0, 0)) is None


def test_a_layer_without_a_shortcut_may_go_and_would_join_the_channels_around_it() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    model = Model(plain, (torch.randn(1, 8),))
    choices = PruneLayers.choices(model, find_device("host"))
    assert choices is not None
    assert [site.name for site in choices.sites] == ["0", "2"]
    assert joining(model, ["0", "2"]) == {"0", "2"}
