"""The optimizer: its learning rate's course, the rate that needs no tuning, and settings that make no sense."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_digits import accuracy, blank, broken, digits, digits_task, model, trained
from torch import nn

from haversack.errors import RecipeError
from haversack.training import Training, finetune
from haversack.training.settings import optimizer, set_rate


def course(training: Training, steps: int) -> list[float]:
    """The learning rate of each step."""
    made, rates = optimizer(nn.Linear(2, 2), training), []
    for step in range(steps):
        set_rate(made, training, step / steps, 64)
        rates.append(made.param_groups[0]["lr"])
    return rates


def test_the_cosine_rises_over_a_tenth_and_falls_to_nothing():
    rates = course(Training(learning_rate=0.2), 1000)
    assert max(rates) == pytest.approx(0.2, abs=1e-5)
    assert rates.index(max(rates)) == pytest.approx(100, abs=2)
    assert rates[550] == pytest.approx(0.1, rel=0.01)
    assert rates[-1] < 1e-5


@given(st.sampled_from(["sgd", "adam"]), st.floats(0, 1))
def test_no_step_is_longer_than_the_setting_or_backward(kind, share):
    training = Training(learning_rate=0.3, optimizer=kind)
    made = optimizer(nn.Linear(2, 2), training)
    set_rate(made, training, share, 64)
    assert all(0 <= group["lr"] <= 0.3 for group in made.param_groups)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_rate_that_is_chosen_by_itself_trains_from_nothing_and_mends_what_is_broken(kind):
    training = Training(epochs=5, learning_rate=0, optimizer=kind)
    torch.manual_seed(0)
    assert accuracy(finetune(model(blank()), digits_task(), training)) > 0.9
    assert accuracy(finetune(model(broken(), trained()), digits_task(), training)) > accuracy(trained()) - 0.03


def highest(network: nn.Module, training: Training, samples: int) -> float:
    made = optimizer(network, training)
    set_rate(made, training, 0.1, samples)
    return made.param_groups[0]["lr"]


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_the_rate_that_is_chosen_by_itself_grows_with_the_batch_and_one_that_was_set_does_not(kind):
    untuned = Training(learning_rate=0, optimizer=kind)
    assert highest(blank(), untuned, 256) == pytest.approx(math.sqrt(2) * highest(blank(), untuned, 128))
    assert highest(blank(), untuned, 10_000) == highest(blank(), untuned, 512)
    assert highest(blank(), Training(learning_rate=0.3, optimizer=kind), 7) == pytest.approx(0.3)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_a_network_that_is_trained_already_takes_shorter_steps_than_a_fresh_one(norm):
    network, training = nn.Sequential(nn.Linear(4, 4), copy.deepcopy(norm)), Training(learning_rate=0)
    before = highest(network, training, 128)
    nn.init.normal_(network[1].bias)
    assert highest(network, training, 128) == pytest.approx(before / 4)
    assert highest(network[:1], training, 128) == pytest.approx(before / 4)


def test_a_shorter_clip_makes_shorter_steps_and_none_is_as_good_as_a_long_one():
    def moved(clip: float):
        after = finetune(model(broken()), digits_task(lambda: [(digits()[0][:64], digits()[1][:64])]), one(clip))
        return (after[-1].weight - broken()[-1].weight).norm()

    def one(clip: float) -> Training:
        return Training(epochs=1, clip=clip, weight_decay=0)

    assert moved(0.01) < 0.1 * moved(0)
    assert torch.equal(moved(0), moved(1e9))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", each) for each in (-1, 1.5, "2")),
        *(("learning_rate", each) for each in (-0.1, math.nan, math.inf)),
        *(("momentum", each) for each in (-0.1, 1, math.nan)),
        *(("weight_decay", -1), ("weight_decay", math.nan), ("clip", -1)),
        *(("label_smoothing", 1), ("label_smoothing", -0.1)),
        *(("learning_rate", "fast"), ("temperature", "3"), ("mixed_precision", "no")),
        *(("distillation", 1.1), ("distillation", math.nan), ("temperature", 0), ("temperature", math.inf)),
        *(("optimizer", "lamb"), ("outputs", "what")),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(name, value):
    with pytest.raises(RecipeError, match=f"^{name} is .*{value}") as caught:
        Training(**{name: value})
    assert caught.value.mend
