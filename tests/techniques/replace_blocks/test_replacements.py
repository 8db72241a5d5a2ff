"""Blocks start from the convolution's own kernel, run as one convolution while they learn, and come nearer to it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.calibration.imitate import block_by_block
from haversack.calibration.least_squares import problem_of
from haversack.calibration.patches import geometry_of, macs
from haversack.model import Edits, Model, Swap
from haversack.surgery.edit import edit
from haversack.techniques._exchange.sites import Replacement, with_replacements
from haversack.techniques.replace_blocks import blocks
from haversack.techniques.replace_blocks.grouped import Shape, fitted
from haversack.techniques.replace_blocks.merged import merged, unmerged

FEW = settings(max_examples=12)
SHAPES = st.sampled_from([(8, 1), (4, 1), (2, 1), (8, 2), (4, 2), (2, 2), (1, 2), (4, 4)])


def network(seed: int, *, line: bool = False, **sizes: object) -> nn.Sequential:
    torch.manual_seed(seed)
    kind = nn.Conv1d if line else nn.Conv2d
    return nn.Sequential(kind(8, 12, 3, **sizes)).eval()


def replaced(module: nn.Sequential, shape: Shape, inputs: list[torch.Tensor]) -> nn.Module:
    problem = problem_of(module[0], geometry_of(module[0]), inputs)
    fit = fitted(problem, shape)
    state = {name: tensor.float() for name, tensor in fit.state(problem).items()}
    return with_replacements(module, {"0": Replacement(shape.layers(problem.geometry), state)})[0]


@FEW
@given(SHAPES, st.integers(1, 2), st.sampled_from([0, 1, "valid"]), st.integers(1, 2), st.booleans(), st.booleans())
def test_with_all_its_filters_a_block_is_the_convolution(groups, stride, padding, dilation, bias, line):
    module = network(0, line=line, stride=stride, padding=padding, dilation=dilation, bias=bias)
    pixels = 3 if line else 9
    shape = Shape(*groups, min(8 // groups[0] * pixels, 12 // groups[1]))
    x = torch.randn((2, 8, 9) if line else (2, 8, 9, 7))
    with torch.no_grad():
        torch.testing.assert_close(replaced(module, shape, [x])(x), module(x), atol=1e-4, rtol=1e-3)


@FEW
@given(st.integers(0, 99), st.sampled_from([1, 2, 4]), st.integers(1, 5))
def test_without_inputs_a_block_loses_the_energy_beyond_its_rank(seed, size, rank):
    layer = network(seed)[0]
    problem = problem_of(layer, geometry_of(layer))
    slices = layer.weight.detach().double().numpy().reshape(12, 8 // size, size * 9)
    lost = sum((np.linalg.svd(slices[:, group], compute_uv=False)[rank:] ** 2).sum() for group in range(8 // size))
    fit = fitted(problem, Shape(8 // size, 1, rank))
    assert problem.error(fit.weight(problem)) == pytest.approx(lost / (slices**2).sum(), rel=1e-6)


@FEW
@given(st.integers(0, 99), SHAPES)
def test_a_block_fits_what_it_reads_better_than_one_that_knows_nothing_of_it(seed, groups):
    layer = network(seed)[0]
    x = torch.randn(16, 8, 8, 8).cumsum(2).cumsum(3)
    problem = problem_of(layer, geometry_of(layer), [x])
    blind = problem.without_inputs()
    aware, unaware = (fitted(each, Shape(*groups, 2)).weight(each) for each in (problem, blind))
    assert problem.error(aware) <= problem.error(unaware) * (1 + 1e-9)


@FEW
@given(st.integers(0, 99), SHAPES, st.booleans())
def test_a_merged_block_gives_the_same_outputs_and_gradients(seed, groups, line):
    whole = network(seed, line=line, padding=1, stride=2)
    module = edit(whole, Edits((Swap("0", Shape(*groups, 2).layers(geometry_of(whole[0]))),)))
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    one = merged(module, ["0"])
    x = torch.randn((2, 8, 9) if line else (2, 8, 9, 7))
    torch.testing.assert_close(one(x), module(x), atol=1e-3, rtol=1e-3)
    for each in (one, module):
        each(x).square().sum().backward()
    for ours, theirs in zip(one.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-2, rtol=1e-3)


def test_what_a_merged_network_learned_goes_back_into_the_layers():
    whole = network(0, padding=1)
    module = replaced(whole, Shape(4, 2, 2), [torch.randn(2, 8, 8, 8)])
    one = merged(module, ["0"])
    with torch.no_grad():
        one[0][0].weight += 1
    back = unmerged(module, one)
    x = torch.randn(2, 8, 8, 8)
    assert type(back[0]) is nn.Sequential
    torch.testing.assert_close(back(x), one(x), atol=1e-3, rtol=1e-3)
    assert not torch.equal(module[0][0].weight, back[0][0].weight)


def test_the_ladder_holds_blocks_of_every_kind_that_cost_less_than_the_convolution():
    geometry = geometry_of(network(0)[0])
    found = list(blocks(geometry))
    whole = geometry.piece(8, 12, geometry.everywhere, last=True)
    assert {each.method for each in found} == {"separable", "grouped", "shuffle"}
    assert all(macs(each.layers, (1, 8, 6, 6)) < macs([whole], (1, 8, 6, 6)) for each in found)
    assert len({each.ranks for each in found}) == len(found)


def test_imitation_teaches_a_block_to_make_up_for_the_one_before():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1)).eval()
    x = torch.randn(100, 8, 8, 8)
    small = Model(both_replaced(whole, x), (x[:1],))
    learned = block_by_block(small, whole, ["0", "2"], [(x,)], passes=20, seed=0)
    with torch.no_grad():
        before, after = (float((each.module(x) - whole(x)).square().mean()) for each in (small, learned))
    assert after < 0.95 * before
    assert all(parameter.grad is None for parameter in learned.module.parameters())
    assert block_by_block(small, whole, ["0", "2"], [(x,)], passes=0, seed=0) is small


def both_replaced(whole: nn.Sequential, x: torch.Tensor) -> nn.Module:
    with torch.no_grad():
        problems = [
            problem_of(layer, geometry_of(layer), [read]) for layer, read in ((whole[0], x), (whole[2], whole[:2](x)))
        ]
    replacements = {}
    for path, problem in zip("02", problems, strict=True):
        shape = Shape(problem.geometry.inputs, 1, 1)
        state = {name: tensor.float() for name, tensor in fitted(problem, shape).state(problem).items()}
        replacements[path] = Replacement(shape.layers(problem.geometry), state)
    return with_replacements(whole, replacements)[0]
