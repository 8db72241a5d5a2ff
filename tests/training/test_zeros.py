"""Zeros of pruned weights stay zero while a network trains."""

import copy
from dataclasses import replace

import pytest
import torch
from small_digits import SHORT, broken, digits_task, model, trained

from haversack.model import Model
from haversack.training import Training, finetune


def with_zeros() -> Model:
    """The trained network, half of its weights at zero, and named so."""
    module = copy.deepcopy(trained())
    names = ["0.weight", "3.weight", "7.weight"]
    with torch.no_grad():
        for name in names:
            weight = module.get_parameter(name)
            weight *= weight.abs() > weight.abs().median()
    return replace(model(module, trained()), sparse=frozenset(names))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_zeros_of_sparse_weights_stay_and_all_else_learns(optimizer):
    start = with_zeros()
    after = finetune(start, digits_task(), Training(epochs=2, optimizer=optimizer, learning_rate=0.01))
    for name in start.sparse:
        before, now = start.module.get_parameter(name), after.get_parameter(name)
        assert torch.equal(now == 0, before == 0)
        assert (now != before)[before != 0].float().mean() > 0.9


def test_zeros_that_nobody_named_learn_like_other_weights():
    start = replace(with_zeros(), sparse=frozenset())
    after = finetune(start, digits_task(), SHORT)
    assert (after.get_parameter("3.weight") == 0).float().mean() < 0.01


def test_masks_are_asked_after_each_step_and_momentum_does_not_leak_past_them():
    asked = []

    def masks(weights, share_done):
        asked.append(share_done)
        assert all(weight.grad is not None for weight in weights.values())
        return {"3.weight": weights["3.weight"].abs() > (0.05 if share_done > 0.5 else 0)}

    after = finetune(model(broken(), trained()), digits_task(), Training(epochs=2), masks)
    weight = after.get_parameter("3.weight")
    assert len(asked) == 42
    assert asked[-1] == 1
    assert (weight == 0).float().mean() > 0.2
    assert weight[weight != 0].abs().min() > 0.02


def test_names_of_sparse_weights_that_the_network_does_not_have_are_passed_over():
    start = replace(with_zeros(), sparse=frozenset({"nobody.weight"}))
    assert not finetune(start, digits_task(), SHORT).training
