"""What every technique keeps. A new file in haversack/techniques is tested here without a line being added."""

import functools
from contextlib import suppress
from dataclasses import asdict, replace
from itertools import groupby

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from haversack import techniques
from haversack.device import find_device
from haversack.errors import NothingChangedError
from haversack.graph.inference import lower
from haversack.model import Edits, Model
from haversack.recipe import Recipe, Stage, Step, recipe_from_toml, technique
from haversack.runtimes.onnx import ONNX
from haversack.task import Task

NAMES = techniques.names()
DEVICES = ("host", "raspberry-pi-zero-2w", "stm32f405")


class Small(nn.Module):
    """A residual network for images of 8 x 8, such as scikit-learn's digits; some of its channels are dead."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.branch = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1))
        self.head = nn.Linear(16, 4)
        nn.init.zeros_(self.branch[0].weight[::2])
        nn.init.constant_(self.branch[0].bias[::2], -0.1)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.max_pool2d(F.relu(x + self.branch(x)), 2)
        return self.head(x.mean((2, 3)))


def task() -> Task:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 1, 8, 8, generator=generator)
    y = x.mean((2, 3)).squeeze(1).argsort().argsort() // 16

    def score(predict):
        with torch.no_grad():
            return float((predict(x).argmax(1) == y).float().mean())

    return Task(train=lambda: [(x[:32], y[:32]), (x[32:], y[32:])], calibrate=lambda: list(x.split(32)), score=score)


def fresh() -> Model:
    torch.manual_seed(0)
    return Model(Small().eval(), (torch.randn(1, 1, 8, 8),))


def first_option(name: str):
    """The mildest setting for this machine."""
    return next(iter(techniques.catalogue()[name].options(fresh(), find_device("host"))))


@functools.cache
def applied(name: str) -> Model:
    return first_option(name).apply(fresh(), task())


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_a_step_named_like_its_file_and_has_a_stage(name):
    kind = techniques.catalogue()[name]
    assert Step in kind.__mro__
    assert technique(kind) == name
    assert kind.stage in Stage


@pytest.mark.parametrize("name", NAMES)
def test_the_input_model_is_left_as_it_was(name):
    model = fresh()
    before, structure = state(model), repr(model.module)
    first_option(name).apply(model, task())
    assert same(before, state(model))
    assert repr(model.module) == structure
    assert not model.module.training
    assert (model.edits, dict(model.grids), model.teacher) == (Edits(), {}, None)
    assert all(tensor.grad is None and tensor.requires_grad for tensor in model.module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_result_runs_on_the_example_and_is_another_model(name):
    model, result = fresh(), applied(name)
    with torch.no_grad():
        outputs = result.module(*result.example)
    assert outputs.shape == model.module(*model.example).shape
    assert outputs.isfinite().all()
    assert not result.module.training
    assert not same(state(model), state(result)) or result.grids


@pytest.mark.parametrize("name", NAMES)
def test_the_same_settings_give_the_same_result(name):
    first = applied(name)
    torch.manual_seed(1234)
    again = first_option(name).apply(fresh(), task())
    assert same(state(first), state(again))
    assert first.edits == again.edits
    assert first.grids == again.grids


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_legal_for_its_device_and_survives_toml(name, device):
    target = find_device(device)
    options = list(techniques.catalogue()[name].options(fresh(), target))
    assert options or device != "host"
    assert len(set(options)) == len(options)
    for step in options:
        recipe = Recipe((step,))
        assert recipe_from_toml(recipe.to_toml(), techniques.catalogue()) == recipe
        if hasattr(step, "multiple"):
            assert step.multiple % target.channel_multiple == 0
        if hasattr(step, "activations"):
            assert step.activations == ("int8" if target.signed_activations else "uint8")


@pytest.mark.parametrize("name", NAMES)
def test_a_teacher_survives_and_is_asked_in_every_training(name):
    model, step = fresh(), first_option(name)
    teacher, asked = Small().eval(), list[int]()
    teacher.register_forward_hook(lambda _, inputs, outputs: asked.append(len(inputs[0])))
    result = step.apply(Model(model.module, model.example, teacher=teacher), task())
    assert result.teacher is teacher
    assert sum(asked) >= 64 or not step.trains


@pytest.mark.parametrize("name", NAMES)
def test_a_skeleton_is_as_large_as_the_whole(name):
    whole, bare = Recipe((first_option(name).untrained(),)), Recipe((first_option(name),)).skeleton()
    steps = (whole, bare) if bare != whole else ()
    sizes = [len(ONNX.write(lower(each.apply(fresh(), task())))) for each in steps]
    assert not sizes or sizes[1] == pytest.approx(sizes[0], rel=0.01)


class Untouched:
    """A target that nobody may ask."""

    def latencies_ms(self, models):
        raise AssertionError("options time nothing")

    def flash_bytes(self, model):
        raise AssertionError("options write no file")


@pytest.mark.parametrize("name", NAMES)
def test_options_wait_until_they_are_asked_for_and_measure_nothing(name):
    kind, device = techniques.catalogue()[name], find_device("host")
    kind.options(None, device)
    assert list(kind.options(replace(fresh(), target=Untouched()), device)) == list(kind.options(fresh(), device))


@pytest.mark.parametrize("name", NAMES)
def test_options_that_differ_in_strength_alone_get_stronger_one_way(name):
    steps = list(techniques.catalogue()[name].options(fresh(), find_device("host")))
    assert steps[0].strength in asdict(steps[0])
    alike = [
        [asdict(step)[step.strength] for step in group]
        for _, group in groupby(steps, key=lambda step: {**asdict(step), step.strength: None})
    ]
    assert all(len(set(each)) == len(each) and each in (sorted(each), sorted(each)[::-1]) for each in alike)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_says_whether_it_needs_training_data(name):
    read, step = [], first_option(name)
    watched = replace(task(), train=lambda: read.append(1) or task().train())
    with suppress(NothingChangedError):
        step.untrained().apply(fresh(), watched)
    assert not read
    assert not step.untrained().trains
    step.apply(fresh(), watched)
    assert bool(read) is step.trains


@pytest.mark.parametrize("name", [name for name in NAMES if techniques.catalogue()[name].stage is Stage.NUMERICS])
def test_numbers_are_not_rounded_twice(name):
    model = applied(name)
    assert not list(techniques.catalogue()[name].options(model, find_device("host")))
    with pytest.raises(NothingChangedError) as caught:
        first_option(name).apply(model, task())
    assert caught.value.mend


def test_a_new_file_in_the_folder_is_a_technique_without_further_ado(tmp_path, monkeypatch):
    (tmp_path / "leave_alone.py").write_text("class LeaveAlone: ...\n", encoding="utf-8")
    monkeypatch.setattr(techniques, "__path__", [*techniques.__path__, str(tmp_path)])
    assert techniques.catalogue()["leave_alone"].__name__ == "LeaveAlone"
