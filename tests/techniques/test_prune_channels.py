import copy
import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from haversack.choices import Width
from haversack.device import Device, find_device
from haversack.errors import ExportError, NothingChangedError, RecipeError, SurgeryError
from haversack.model import Model
from haversack.recipe import Recipe, recipe_from_toml
from haversack.surgery.save import load, save
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels


class Small(nn.Module):
    """A residual network whose shortcut pads zero channels, and 16 and 32 channels wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.a, self.b = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        y = self.b(F.relu(self.a(x)))
        x = F.relu(y + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8)))
        return self.head(x.mean((2, 3)))


def task() -> Task:
    """Which quarter of an image is bright."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (256,), generator=generator)
    images = torch.randn(256, 1, 8, 8, generator=generator)
    for image, quarter in zip(images, target.tolist(), strict=True):
        image[0, 4 * (quarter // 2) :][:4, 4 * (quarter % 2) :][:, :4] += 1.0

    def train() -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(256)
        return [(images[chunk], target[chunk]) for chunk in order.split(64)]

    return Task(
        train=train,
        calibrate=lambda: list(images.split(64)),
        score=lambda predict: float((predict(images).argmax(1) == target).float().mean()),
    )


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    module, ours = Small(), task()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(8):
        for images, target in ours.train():
            optimizer.zero_grad()
            F.cross_entropy(module(images), target).backward()
            optimizer.step()
    return Model(module.eval(), (torch.randn(1, 1, 8, 8),))


def macs(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, 1, 8, 8))
    return counter.get_total_flops() // 2


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "bn_scale", "taylor", "second_order"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize(("of", "measured"), [("macs", macs), ("parameters", parameters)])
def test_the_pruned_network_costs_at_most_the_fraction_asked_for(
    model: Model, importance: str, scope: str, of: str, measured: object
) -> None:
    step = PruneChannels(keep=0.6, of=of, importance=importance, scope=scope, correct="nothing", imitate=0, epochs=0)
    share = measured(step.apply(model, task()).module) / measured(model.module)
    assert 0.5 < share <= 0.6


def test_latency_is_lowered_in_whole_blocks(model: Model) -> None:
    small = PruneChannels(keep=0.7, of="latency", multiple=8, imitate=0, epochs=0).apply(model, task()).module
    assert macs(small) < macs(model.module)
    assert small.stem.out_channels % 8 == small.a.out_channels % 8 == 0


@pytest.mark.parametrize("multiple", [2, 4, 8, 16])
def test_channel_counts_are_multiples_and_never_less_than_one(model: Model, multiple: int) -> None:
    small = PruneChannels(keep=0.8, multiple=multiple, imitate=0, epochs=0).apply(model, task()).module
    for width in (small.stem.out_channels, small.a.out_channels, small.b.out_channels):
        assert width % multiple == 0
        assert width > 0


def test_a_layer_narrower_than_the_multiple_stays_whole(model: Model) -> None:
    small = PruneChannels(keep=0.6, of="parameters", multiple=16, imitate=0, epochs=0).apply(model, task()).module
    assert (small.stem.out_channels, small.a.out_channels) == (16, 16)


def test_min_share_is_a_floor(model: Model) -> None:
    small = PruneChannels(keep=0.6, min_share=0.5, importance="l2", imitate=0, epochs=0).apply(model, task()).module
    assert small.stem.out_channels >= 8
    assert small.a.out_channels >= 16


def test_a_fraction_out_of_reach_names_the_smallest_one(model: Model) -> None:
    with pytest.raises(RecipeError, match=r"smallest fraction of macs in reach is 0\.\d+"):
        PruneChannels(keep=0.01, min_share=0.5).apply(model, task())


def test_a_multiple_that_no_layer_can_lose_changes_nothing(model: Model) -> None:
    with pytest.raises(NothingChangedError, match="widest prunable group has 32"):
        PruneChannels(multiple=64).apply(model, task())


def test_a_network_without_prunable_channels_says_why() -> None:
    lone = Model(nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten()).eval(), (torch.randn(1, 1, 8, 8),))
    with pytest.raises(NothingChangedError, match="0: an output of the network"):
        PruneChannels().apply(lone, task())


def test_code_that_counts_channels_out_of_sight_of_the_graph_is_named() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if x.shape[1] != 6:
                raise ValueError("six, please")
            return self.b(x)

    counting = Model(Counting().eval(), (torch.randn(1, 8),))
    with pytest.raises(SurgeryError, match="six, please"):
        PruneChannels(importance="l2", epochs=0).apply(counting, task())


def test_the_input_model_is_untouched_and_becomes_the_teacher(model: Model) -> None:
    before = copy.deepcopy(model.module.state_dict())
    small = PruneChannels(keep=0.7, epochs=1).apply(model, task())
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())
    assert small.teacher is model.module
    again = PruneChannels(keep=0.8, epochs=0).apply(small, task())
    assert again.teacher is model.module
    assert not small.module.training


def test_the_same_seed_gives_the_same_network(model: Model) -> None:
    first, second = (PruneChannels(keep=0.6, epochs=1, seed=3).apply(model, task()) for _ in range(2))
    assert first.edits == second.edits
    for ours, theirs in zip(first.module.parameters(), second.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_training_wins_back_what_pruning_lost(model: Model) -> None:
    ours, step = (
        task(),
        PruneChannels(
            keep=0.15,
            importance="l2",
            scope="layer",
            min_share=0.1,
            correct="nothing",
            imitate=0,
            epochs=6,
            learning_rate=0.05,
        ),
    )
    dry = ours.scored(replace(step, epochs=0).apply(model, ours).module)
    trained = ours.scored(step.apply(model, ours).module)
    assert dry < 0.7
    assert trained > 0.9


def test_least_squares_and_imitation_win_back_what_pruning_lost_without_labels(model: Model) -> None:
    def unlabelled() -> list[tuple[Tensor, Tensor]]:
        raise AssertionError("nobody may look at labels")

    ours = replace(task(), train=unlabelled)
    lost = []
    for correct, imitate in (("nothing", 0), ("statistics", 0), ("least_squares", 0), ("least_squares", 5)):
        small = PruneChannels(keep=0.3, correct=correct, imitate=imitate, epochs=0).apply(model, ours)
        images = torch.cat(list(ours.calibrate()))
        with torch.no_grad():
            lost.append(float((small.module(images) - model.module(images)).square().mean()))
    assert lost[3] <= lost[2] < min(lost[:2])


def test_without_calibration_inputs_training_inputs_stand_in(model: Model) -> None:
    without = replace(task(), calibrate=None)
    small = PruneChannels(keep=0.6, imitate=1, epochs=0).apply(model, without)
    assert macs(small.module) <= 0.6 * macs(model.module)


def test_rounds_share_what_is_to_be_pruned_and_trained(model: Model) -> None:
    ours, seen = task(), []
    counting = replace(ours, train=lambda: seen.append(1) or ours.train())
    step = PruneChannels(keep=0.4, rounds=2, min_share=0.1, imitate=0, epochs=3)
    small = step.apply(model, counting)
    assert 0.3 < macs(small.module) / macs(model.module) <= 0.4
    assert small.teacher is model.module
    assert len(seen) >= 3


def test_latency_is_measured_where_there_is_something_to_measure_on(model: Model) -> None:
    class Runtime:
        """A device that takes its time for the stem alone."""

        def latencies_ms(self, models: list[Model]) -> list[float]:
            return [each.module.stem.out_channels / 10 for each in models]

        def flash_bytes(self, model: Model) -> int:
            raise NotImplementedError

    step = PruneChannels(keep=0.75, of="latency", correct="nothing", imitate=0, epochs=0)
    small = step.apply(replace(model, target=Runtime()), task()).module
    assert (small.stem.out_channels, small.a.out_channels) == (12, 32)


def test_latency_that_cannot_be_measured_is_estimated(model: Model) -> None:
    class Broken:
        def latencies_ms(self, models: list[Model]) -> list[float]:
            raise ExportError("no such file can be written.")

        def flash_bytes(self, model: Model) -> int:
            raise NotImplementedError

    step = PruneChannels(keep=0.7, of="latency", multiple=8, correct="nothing", imitate=0, epochs=0)
    ours, theirs = (step.apply(replace(model, target=each), task()) for each in (None, Broken()))
    assert ours.edits == theirs.edits


def test_two_rounds_of_pruning_reload_onto_a_fresh_network(model: Model, tmp_path: Path) -> None:
    step = PruneChannels(keep=0.7, imitate=1, epochs=0)
    twice = step.apply(step.apply(model, task()), task())
    save(twice, tmp_path)
    again = load(Small(), tmp_path, model.example)
    with torch.no_grad():
        assert torch.equal(again.module(*model.example), twice.module(*model.example))
    assert macs(twice.module) <= 0.49 * macs(model.module)


@pytest.mark.parametrize(
    "settings",
    [
        {"keep": 0.0}, {"keep": 1.0}, {"keep": float("nan")}, {"of": "joules"}, {"importance": "magic"},
        {"scope": "world"}, {"multiple": 0}, {"multiple": 1.5}, {"min_share": 0.0}, {"min_share": 1.1},
        {"correct": "luck"}, {"imitate": -1}, {"rounds": 0}, {"rounds": 1.5}, {"epochs": -1},
        {"learning_rate": 0.0}, {"learning_rate": float("inf")},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused_with_a_mend(settings: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match="How to mend it"):
        PruneChannels(**settings)


def test_settings_survive_a_toml_round_trip() -> None:
    recipe = Recipe((PruneChannels(keep=0.55, of="latency", importance="bn_scale", scope="layer", multiple=8),))
    assert recipe_from_toml(recipe.to_toml(), {"prune_channels": PruneChannels}) == recipe


def test_options_are_within_reach_and_mildest_first(model: Model) -> None:
    device = Device("d", "a device", "onnx", channel_multiple=8)
    options = list(PruneChannels.options(model, device))
    assert {option.of for option in options} == {"parameters", "latency"}
    assert all(option.multiple == 8 for option in options)
    for of in ("parameters", "latency"):
        shares = [option.keep for option in options if option.of == of]
        assert shares == sorted(shares, reverse=True)
    count = sum(parameter.numel() for parameter in model.module.parameters())
    strongest = [option for option in options if option.of == "parameters"][-1]
    small = replace(strongest, epochs=0).apply(model, task())
    assert sum(parameter.numel() for parameter in small.module.parameters()) <= strongest.keep * count


def test_a_device_whose_blocks_are_too_wide_gets_no_options(model: Model) -> None:
    assert list(PruneChannels.options(model, Device("d", "a device", "onnx", channel_multiple=64))) == []


def test_widths_are_left_as_they_are_spelled_out_and_survive_toml(model: Model) -> None:
    step = PruneChannels(widths=("a=20", "stem=9"), epochs=0)
    small = step.apply(model, task()).module
    assert (small.stem.out_channels, small.a.out_channels, small.b.out_channels) == (9, 20, 32 - (16 - 9))
    recipe = Recipe((step,))
    assert recipe_from_toml(recipe.to_toml(), {"prune_channels": PruneChannels}) == recipe
    assert recipe.skeleton().steps[0].widths == step.widths
    bare = recipe.skeleton().apply(model, task()).module
    assert (bare.stem.out_channels, bare.a.out_channels) == (9, 20)


def test_widths_take_the_channels_that_matter_least_first(model: Model) -> None:
    wide, narrow = (
        PruneChannels(widths=(f"a={count}",), imitate=0, epochs=0).apply(model, task()).edits.kept["a.weight"][0]
        for count in (24, 12)
    )
    assert set(narrow) < set(wide)


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        (("a=3", "a=4"), "names a twice"),
        (("head=3",), r"head, whose channels must stay \(an output"),
        (("nothing=3",), "makes no channel group"),
        (("a=33",), "leaves 33 channels of a, which has 32"),
        (("a=0",), "widths holds 'a=0'"),
        (("a",), "widths holds 'a'"),
    ],
)
def test_widths_that_cannot_be_are_named(model: Model, widths: tuple[str, ...], said: str) -> None:
    with pytest.raises(RecipeError, match=said) as caught:
        PruneChannels(widths=widths, importance="l2", correct="nothing", imitate=0, epochs=0).apply(model, task())
    assert caught.value.mend


def test_widths_that_leave_everything_change_nothing(model: Model) -> None:
    with pytest.raises(NothingChangedError, match="every channel"):
        PruneChannels(widths=("a=32",), epochs=0).apply(model, task())


def test_choices_are_widths_whose_losses_rise_and_whose_step_leaves_them(model: Model) -> None:
    choices = PruneChannels.choices(model, replace(device(), channel_multiple=4))
    assert choices is not None
    (stem, a) = choices.sites
    assert (stem.name, a.name) == ("stem", "a")
    assert [each.effect for each in stem.options] == [None, *(Width("stem", count) for count in (12, 8, 4))]
    for site, losses in zip(choices.sites, choices.losses(task().calibration(), "classification"), strict=True):
        assert len(losses) == len(site.options)
        assert losses[0] == 0
        assert all(low < high for low, high in itertools.pairwise(losses))
    step = choices.step((2, 1))
    assert step is not None
    assert not step.trains
    small = step.apply(model, task()).module
    assert (small.stem.out_channels, small.a.out_channels) == (8, a.options[1].effect.channels)
    assert choices.step((0, 0)) is None


def test_channels_that_no_convolution_reads_are_tried(model: Model) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 4, 3)).eval()
    choices = PruneChannels.choices(Model(module, (torch.randn(1, 1, 8, 8),)), replace(device(), channel_multiple=4))
    assert choices is not None
    (losses,) = choices.losses(task().calibration(), "regression")
    assert losses[0] == 0 < losses[1] <= losses[2] <= losses[3]


def device() -> Device:
    return find_device("host")
