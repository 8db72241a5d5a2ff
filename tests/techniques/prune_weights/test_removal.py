"""Removal by second order, against the formula itself (Hassibi and Stork 1993) and scipy's least squares."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from haversack.calibration import least_squares
from haversack.calibration.least_squares import Fit, refitted
from haversack.techniques.prune_weights import removal
from haversack.techniques.prune_weights.masks import kept
from haversack.techniques.prune_weights.removal import removal_costs


def fit(groups: int, rows: int, columns: int, seed: int = 0, cases: int = 400) -> Fit:
    """A layer whose inputs depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(groups, columns, columns, dtype=torch.float64, generator=generator)
    x = torch.randn(groups, cases, columns, dtype=torch.float64, generator=generator) @ mixing
    curvature = x.mT @ x / cases + 0.1 * torch.eye(columns, dtype=torch.float64)
    weight = torch.randn(groups, rows, columns, dtype=torch.float64, generator=generator)
    return Fit(weight, weight, curvature, torch.zeros(groups, rows), torch.zeros(groups, columns))


def none(fit: Fit) -> torch.Tensor:
    return torch.zeros_like(fit.best, dtype=torch.bool)


def brute_force(weight: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """What each weight cost when it was removed, or the most that one before it did; everything inverted anew."""
    weight, alive, highest = weight.copy(), list(range(len(weight))), -np.inf
    costs = np.zeros(len(weight))
    while alive:
        inverse = np.linalg.inv(curvature[np.ix_(alive, alive)])
        now = weight[alive] ** 2 / np.diag(inverse)
        place = int(now.argmin())
        highest = max(highest, now[place])
        costs[alive[place]] = highest
        weight[alive] -= inverse[:, place] * weight[alive[place]] / inverse[place, place]
        del alive[place]
    return costs


@given(st.integers(0, 1000), st.integers(1, 2), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=15)
def test_costs_are_those_of_the_surgeon_s_formula(seed, groups, rows, columns):
    layer = fit(groups, rows, columns, seed)
    costs = removal_costs(layer, none(layer))
    wanted = [
        [brute_force(row.numpy(), curvature.numpy()) for row in weight]
        for weight, curvature in zip(layer.best, layer.curvature, strict=True)
    ]
    np.testing.assert_allclose(costs.numpy(), np.array(wanted), rtol=1e-6)


def test_many_at_a_time_cost_next_to_nothing_more_than_one_by_one(monkeypatch):
    layer = fit(1, 8, 72)
    costs = {}
    for share in (0.0, removal._SHARE):
        monkeypatch.setattr(removal, "_SHARE", share)
        mask = kept({"w": removal_costs(layer, none(layer))[0]}, 0.6)["w"]
        costs[share] = float(layer.cost(refitted(layer, mask[None])).sum())
    assert costs[removal._SHARE] < 1.1 * costs[0.0]


@given(st.integers(0, 1000), st.floats(0.1, 0.9))
@settings(max_examples=15)
def test_what_stays_is_the_least_squares_solution(seed, sparsity):
    layer = fit(2, 3, 10, seed)
    mask = torch.rand(2, 3, 10, generator=torch.Generator().manual_seed(seed)) > sparsity
    found = refitted(layer, mask)
    assert not found[~mask].any()
    for group in range(2):
        root = scipy.linalg.cholesky(layer.curvature[group].numpy())
        for row in range(3):
            columns = mask[group, row].nonzero()[:, 0].numpy()
            if len(columns):
                wanted, *_ = scipy.linalg.lstsq(root[:, columns], root @ layer.best[group, row].numpy())
                np.testing.assert_allclose(found[group, row, columns].numpy(), wanted, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.7, 0.9])
def test_the_error_is_well_below_that_of_the_smallest_weights_even_when_those_are_refitted(sparsity):
    layer = fit(1, 16, 72)
    costs = removal_costs(layer, none(layer))
    ours, theirs = (kept({"w": each[0]}, sparsity)["w"][None] for each in (costs, layer.best.abs()))
    error = float(layer.cost(refitted(layer, ours)).sum())
    assert error < 0.8 * float(layer.cost(refitted(layer, theirs)).sum())
    assert error < 0.6 * float(layer.cost(layer.best * theirs).sum())


def test_what_is_gone_already_costs_nothing_and_goes_first():
    layer = fit(1, 4, 16)
    gone = torch.rand(1, 4, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    costs = removal_costs(layer, gone)
    assert costs[gone].max() <= 0 < costs[~gone].min()


def test_rows_are_worked_on_in_parts_with_the_same_result(monkeypatch):
    layer = fit(2, 8, 12)
    whole = removal_costs(layer, none(layer))
    monkeypatch.setattr(removal, "_MOST_NUMBERS", 1)
    torch.testing.assert_close(removal_costs(layer, none(layer)), whole)


def test_a_layer_too_large_for_it_is_still_far_better_off_than_by_the_smallest_weights(monkeypatch):
    layer = fit(1, 8, 64)
    for module in (removal, least_squares):
        monkeypatch.setattr(module, "MOST_WORK", 0)
    costs = removal_costs(layer, none(layer))
    ours, theirs = (kept({"w": each[0]}, 0.5)["w"][None] for each in (costs, layer.best.abs()))
    found = refitted(layer, ours)
    assert not found[~ours].any()
    assert float(layer.cost(found).sum()) < 0.7 * float(layer.cost(layer.best * theirs).sum())
    monkeypatch.undo()
    assert float(layer.cost(found).sum()) < 1.05 * float(layer.cost(refitted(layer, ours)).sum())


def test_in_stages_the_error_is_not_far_above_that_of_one_by_one(monkeypatch):
    layer = fit(1, 8, 72)
    errors, gone = {}, torch.zeros(1, 8, 72, dtype=torch.bool).index_fill(2, torch.arange(5), value=True)
    for most in (removal.MOST_WORK, 0):
        monkeypatch.setattr(removal, "MOST_WORK", most)
        costs = removal_costs(layer, gone)
        assert costs[gone].max() <= 0 < costs[~gone].min()
        monkeypatch.undo()
        mask = kept({"w": costs[0]}, 0.6)["w"][None]
        errors[most] = float(layer.cost(refitted(layer, mask)).sum())
    assert errors[0] < 1.5 * errors[removal.MOST_WORK]
