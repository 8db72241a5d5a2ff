"""Recipes as data: their order, their TOML, their digest."""

import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.device import Device
from haversack.errors import RecipeError
from haversack.model import Model
from haversack.recipe import Recipe, Stage, Step, describe, recipe_from_toml, technique
from haversack.settings import checked
from haversack.task import Task
from haversack.techniques import catalogue
from haversack.techniques.quantize_static import QuantizeStatic

KNOWN = catalogue()
DEVICES = [
    Device("arm", "", "onnx", number_formats=("int8",), isa="aarch64", channel_multiple=2),
    Device("x86", "", "onnx", number_formats=("int8",), isa="x86-64"),
]


def options(name: str, device: Device) -> list:
    import torch

    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )
    return list(KNOWN[name].options(Model(module.eval(), (torch.ones(1, 3, 8, 8),)), device))


@dataclass(frozen=True)
class Trained(Step):
    """A step of every type of setting that a technique may have."""

    share: float = 0.5
    word: str = "plain"
    count: int = 3
    wanted: bool = False
    epochs: int = 2
    limit: float | None = None

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "share"

    def __post_init__(self):
        checked(self)

    def apply(self, model, task):
        return [*model, self.share]

    @classmethod
    def options(cls, model, device):
        return ()


@dataclass(frozen=True)
class Numbers(Trained):
    """A later stage."""

    stage: ClassVar[Stage] = Stage.NUMERICS


HERE = {technique(Trained): Trained}


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
@pytest.mark.parametrize("name", sorted(KNOWN))
def test_the_defaults_and_all_options_of_a_technique_survive_toml(name, device):
    for step in (KNOWN[name](), *options(name, device)):
        recipe = Recipe((step,))
        read = recipe_from_toml(recipe.to_toml(), KNOWN)
        assert read == recipe
        assert read.digest == recipe.digest


@settings(max_examples=200)
@given(
    st.builds(
        Trained,
        share=st.floats(-1e30, 1e30),
        word=st.text(st.characters(exclude_categories=["Cs"])),
        count=st.integers(1 - 2**63, 2**63 - 1),
        wanted=st.booleans(),
        epochs=st.integers(0, 9),
        limit=st.none() | st.floats(0, 1),
    )
)
def test_any_float_text_whole_number_and_truth_value_survives_toml(step):
    recipe = Recipe((step,))
    assert recipe_from_toml(recipe.to_toml(), HERE) == recipe


@settings(max_examples=50)
@given(st.lists(st.builds(Trained, share=st.floats(0, 1)), min_size=1, max_size=4))
def test_steps_keep_their_order_in_toml(steps):
    assert recipe_from_toml(Recipe(tuple(steps)).to_toml(), HERE).steps == tuple(steps)


def test_a_whole_number_may_be_written_for_a_real_one_and_gives_the_same_digest():
    text = f'[[step]]\ntechnique = "{technique(Trained)}"\nshare = 1\n'
    assert recipe_from_toml(text, HERE).digest == Recipe((Trained(1.0),)).digest


def test_steps_in_an_order_that_makes_no_sense_are_refused():
    with pytest.raises(RecipeError, match=r"STRUCTURE.*comes after.*NUMERICS") as caught:
        Recipe((Numbers(), Trained()))
    assert caught.value.mend


def test_then_puts_a_step_into_its_stage_s_place_behind_those_of_the_same_stage():
    recipe = Recipe().then(Numbers(0.1)).then(Trained(0.2)).then(Trained(0.3))
    assert [step.share for step in recipe.steps] == [0.2, 0.3, 0.1]


def test_applying_a_recipe_applies_its_steps_in_order():
    recipe = Recipe((Trained(0.2), Trained(0.3), Numbers(0.1)))
    assert recipe.apply([], Task(list, list, float)) == [0.2, 0.3, 0.1]


def test_untrained_takes_the_epochs_and_nothing_else():
    for step in (Trained(0.2, epochs=5), Trained(0.3, epochs=0), Numbers(epochs=1)):
        dry = step.untrained()
        assert dry.epochs == 0
        assert replace(dry, epochs=step.epochs) == step
        assert dry.untrained() == dry


def test_untrained_leaves_a_step_alone_that_never_trains():
    step = KNOWN["quantize_static"]()
    assert step.untrained() is step


@pytest.mark.parametrize("seed", ["0", "1", "12345"])
def test_a_digest_is_the_same_in_every_process(seed):
    recipe = Recipe((KNOWN["prune_channels"](keep=0.3), KNOWN["quantize_static"]()))
    program = (
        "import sys; from haversack.recipe import recipe_from_toml; from haversack.techniques import catalogue;"
        "print(recipe_from_toml(sys.stdin.read(), catalogue()).digest)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=recipe.to_toml(),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONHASHSEED": seed},
    )
    assert done.stdout.strip() == recipe.digest


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_different_settings_give_different_digests(name):
    steps = {step for device in DEVICES for step in (KNOWN[name](), *options(name, device))}
    assert len({Recipe((step,)).digest for step in steps}) == len(steps)
    assert len({str(Recipe((step,))) for step in steps}) == len(steps)


def test_every_setting_is_in_the_digest():
    changed = {"share": 0.25, "word": "other", "count": 4, "wanted": True, "epochs": 1, "limit": 0.5}
    assert changed.keys() == asdict(Trained()).keys()
    digests = {Recipe((replace(Trained(), **{name: value}),)).digest for name, value in changed.items()}
    assert len(digests | {Recipe((Trained(),)).digest, Recipe().digest}) == len(changed) + 2


def test_a_step_is_described_by_its_first_setting_and_what_differs_from_the_defaults():
    assert describe(Trained(0.5)) == "test_recipe(share=0.5)"
    assert describe(Trained(0.5, count=4)) == "test_recipe(share=0.5, count=4)"
    assert str(Recipe()) == "the network as it is"


GOOD = '[[step]]\ntechnique = "prune_channels"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[step", "not a TOML document"),
        ("keep = ", "not a TOML document"),
        ("", "holds no steps"),
        ("[step]\ntechnique = 'prune_channels'", "holds no steps"),
        ("step = [1, 2]", "holds no steps"),
        ("step = 'prune_channels'", "holds no steps"),
        ("[[step]]\nkeep = 0.5", "unknown technique None"),
        ("[[step]]\ntechnique = 'shrink'", "unknown technique 'shrink'"),
        ("[[step]]\ntechnique = ['prune_channels']", "unknown technique"),
        (GOOD + "kept = 0.5", "prune_channels has no setting kept"),
        (GOOD + "stage = 5", "no setting stage"),
        (GOOD + "keep = 1.5", "prune_channels: keep is 1.5"),
        (GOOD + "keep = '0.5'", "prune_channels: keep is '0.5'"),
        (GOOD + "keep = true", "keep is True"),
        (GOOD + "keep = nan", "keep is nan"),
        (GOOD + "epochs = 1.5", "epochs is 1.5"),
        (GOOD + "epochs = true", "epochs is True"),
        (GOOD + "seed = 'lucky'", "seed is 'lucky'"),
        (GOOD + "of = ['macs']", r"of is \['macs'\]"),
        ("[[step]]\ntechnique = 'quantize_static'\n" + GOOD, "comes after"),
        ("[[step]]\ntechnique = 'quantize_static'\nleave_float = [{}]", r"leave_float holds \{\}"),
        ("[[step]]\ntechnique = 'quantize_static'\nleave_float = [1]", "leave_float holds 1"),
        (GOOD + "learning_rate = 1e308", r"learning_rate is 1e\+308"),
        (GOOD + "epochs = 99999999999999999999", "epochs is 99999999999999999999"),
        (GOOD + f"epochs = {'9' * 5000}", "more than 40 digits"),
        (GOOD + f"epochs = 0x{'f' * 5000}", "more than 40 digits"),
        (GOOD + f"keep = {'[' * 3000}", "nested more than 12 levels"),
        (GOOD + f"keep = {'{a=' * 3000}", "nested more than 12 levels"),
        (GOOD + f"{'keep.' * 3000}keep = 1", "more than 12 parts"),
        ("#" * 2_000_000, "more than 1,048,576 characters"),
    ],
)
def test_a_recipe_file_that_makes_no_sense_is_refused_with_the_way_to_mend_it(text, said):
    with pytest.raises(RecipeError, match=said) as caught:
        recipe_from_toml(text, KNOWN)
    assert caught.value.mend


def test_numbers_are_chosen_once_the_later_choice_replaces_the_earlier():
    recipe = Recipe().then(Numbers(0.1)).then(Trained(0.2)).then(Numbers(0.3))
    assert recipe.steps == (Trained(0.2), Numbers(0.3))


@dataclass(frozen=True)
class Careful(Trained):
    """Works on its weights beside training."""

    refit: bool = True

    def skeleton(self):
        return replace(self, refit=False)


def test_a_skeleton_spends_no_work_that_a_step_says_it_can_leave_out():
    recipe = Recipe((Trained(), Careful()))
    assert recipe.skeleton() == Recipe((Trained(epochs=0), Careful(epochs=0, refit=False)))


def test_a_setting_of_many_entries_is_shown_by_its_first_and_their_number():
    layers = tuple(f"layer{number}=8" for number in range(40))
    assert describe(QuantizeStatic(layer_bits=layers)).endswith("layer_bits=('layer0=8', ... 40 in all))")
    assert "'layer2=8'" in describe(QuantizeStatic(layer_bits=layers[:3]))
