"""Edits compose; surgery itself is the oracle."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.model import Edits, Model, Slices
from haversack.surgery.edit import edit


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))


@st.composite
def kept(draw, size: int) -> tuple[int, ...]:
    return tuple(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))))


@st.composite
def edits(draw, module: nn.Module) -> Edits:
    """Random slices of random tensors, whether or not the network still runs."""
    found = {}
    for name, tensor in module.named_parameters():
        dims = draw(st.sets(st.integers(0, tensor.dim() - 1)))
        if dims:
            found[name] = {dim: draw(kept(tensor.shape[dim])) for dim in dims}
    return Edits((Slices(found),)) if found else Edits()


@settings(max_examples=60)
@given(st.data())
def test_editing_twice_is_editing_with_the_composition(data):
    first = data.draw(edits(network()))
    once = edit(network(), first)
    second = data.draw(edits(once))
    twice, at_once = edit(once, second), edit(network(), first.then(second))
    for (name, one), (_, other) in zip(twice.named_parameters(), at_once.named_parameters(), strict=True):
        assert torch.equal(one, other), name


@settings(max_examples=40)
@given(st.data())
def test_composition_does_not_depend_on_where_the_brackets_stand(data):
    first = data.draw(edits(network()))
    second = data.draw(edits(edit(network(), first)))
    third = data.draw(edits(edit(network(), first.then(second))))
    assert first.then(second).then(third) == first.then(second.then(third))


@settings(max_examples=30)
@given(st.data())
def test_no_edits_before_or_after_change_nothing(data):
    found = data.draw(edits(network()))
    assert Edits().then(found) == found == found.then(Edits())
    assert bool(found) == bool(found.kept)


def test_composing_leaves_both_edits_as_they_were():
    first, second = Edits((Slices({"0.weight": {0: (1, 3)}}),)), Edits((Slices({"0.weight": {0: (1,), 1: (0,)}}),))
    assert first.then(second).kept == {"0.weight": {0: (3,), 1: (0,)}}
    assert first.kept == {"0.weight": {0: (1, 3)}}


def test_a_model_with_another_network_adds_its_edits_and_keeps_the_teacher():
    module, other = network(), network()
    model = Model(module, (torch.ones(1, 6),), Edits((Slices({"0.bias": {0: (1, 3)}}),)), teacher=module)
    assert model.with_module(other).edits == model.edits
    after = model.with_module(other, Edits((Slices({"0.bias": {0: (1,)}}),)))
    assert after.edits == Edits((Slices({"0.bias": {0: (3,)}}),))
    assert after.module is other
    assert after.teacher is module
    assert model.module is module
