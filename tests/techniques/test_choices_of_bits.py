"""What quantize_static offers a planner: bits a layer, their losses, and the step that does what was chosen."""

from itertools import product

import pytest
import torch
from scipy.stats import spearmanr

from haversack.choices import Bits
from haversack.device import find_device
from haversack.graph.run import joined
from haversack.model import Model
from haversack.recipe import Recipe, recipe_from_toml
from haversack.techniques import catalogue
from haversack.techniques.quantize_static import QuantizeStatic
from tests.tasks.digits_small import network, task

MOST = find_device("host").weight_bits


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(network(), (torch.zeros(1, 1, 8, 8),))


@pytest.fixture(scope="module")
def losses(model: Model) -> list[tuple[float, ...]]:
    return QuantizeStatic.choices(model, find_device("host")).losses(task().calibration())


def test_every_layer_may_have_fewer_bits_and_the_first_option_loses_nothing(model, losses):
    sites = QuantizeStatic.choices(model, find_device("host")).sites
    assert [site.name for site in sites] == ["0", "3", "6", "10"]
    assert all(
        [option.effect for option in site.options] == [Bits(site.name, n) for n in (MOST, 6, 4, 3, 2)] for site in sites
    )
    assert all(each[0] == 0 for each in losses)
    assert all(each[4] > each[3] > each[1] > 0 and each[4] > each[2] for each in losses)


def test_the_step_gives_each_layer_the_bits_that_were_chosen(model):
    choices = QuantizeStatic.choices(model, find_device("rp2040"))
    step = choices.step([0, 2, 3, 1])
    assert (step.rounding, step.activations, step.epochs) == ("gptq", "int8", 0)
    assert recipe_from_toml(Recipe((step,)).to_toml(), catalogue()).steps == (step,)
    grids = step.apply(model, task()).grids
    assert {name: grids[f"{name}.weight"].bits for name in ("0", "3", "6", "10")} == {"0": 8, "3": 4, "6": 3, "10": 6}


def test_as_many_bits_everywhere_as_are_exact_is_the_step_by_itself(model):
    assert QuantizeStatic.choices(model, find_device("host")).step([0] * 4) == QuantizeStatic(MOST, "uint8")


def test_the_losses_rank_as_the_outputs_move(model, losses):
    """Against the networks that the steps make, in which the other layers have 8 bits and GPTQ repairs what it can."""
    choices, (inputs,) = QuantizeStatic.choices(model, find_device("host")), joined(task().calibration())
    true, said = [], []
    with torch.no_grad():
        wanted = model.module(inputs).log_softmax(1)
        for site, option in product(range(4), (1, 2, 3, 4)):
            chosen = [option if each == site else 0 for each in range(4)]
            outputs = choices.step(chosen).apply(model, task()).module(inputs).log_softmax(1)
            true.append(float((wanted.exp() * (wanted - outputs)).sum(1).mean()))
            said.append(losses[site][option])
    assert spearmanr(said, true).statistic >= 0.8
