"""Sparsity rises as asked while weights train."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from haversack.techniques.prune_weights.schedule import Moving, Pool, Rising, cubic

SHARES = st.floats(0, 1)


@given(SHARES, SHARES, SHARES, SHARES)
def test_the_schedule_starts_and_ends_as_asked_and_rises_ever_more_slowly(one, other, start, end):
    start, end = sorted((start, end))
    assert cubic(0, start, end) == pytest.approx(start)
    assert cubic(1, start, end) == cubic(7, start, end) == pytest.approx(end)
    early, late = sorted((one, other))
    middle = (early + late) / 2
    values = [cubic(share, start, end) for share in (early, middle, late)]
    assert values[1] - values[0] >= values[2] - values[1] - 1e-12 >= -2e-12


def test_half_way_seven_eighths_are_gone():
    assert cubic(0.5, 0, 0.8) == pytest.approx(0.7)


def weights() -> dict[str, torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.nn.Parameter(torch.randn(20, 50, generator=generator)) for name in "ab"}


def zeros(masks) -> float:
    return 1 - sum(float(mask.float().mean()) for mask in masks.values()) / len(masks)


POOLS = [Pool(("a", "b"), 0.8)]


@torch.no_grad()
def test_the_smallest_go_step_by_step_and_stay_away():
    found, before = weights(), torch.ones(2, 20, 50, dtype=torch.bool)
    masks = Rising(POOLS, 0.5, found, frozenset())
    shares = []
    for step in range(1, 101):
        now = masks(found, step / 100)
        for name, mask in now.items():
            found[name].mul_(mask).add_(torch.randn(20, 50) * 0.1 * mask)
        alive = torch.stack([now[name] for name in "ab"])
        assert not (alive & ~before).any()
        before = alive
        shares.append(zeros(now))
    assert shares[24] == pytest.approx(cubic(0.5, 0, 0.8), abs=1e-3)
    assert shares[49] == shares[99] == pytest.approx(0.8)


@torch.no_grad()
def test_without_a_ramp_all_is_gone_at_the_first_step():
    assert zeros(Rising(POOLS, 0.0, weights(), frozenset())(weights(), 0.01)) == pytest.approx(0.8)


@torch.no_grad()
def test_zeros_of_an_earlier_pruning_count_and_never_come_back():
    found = weights()
    found["a"][:10], found["b"][:10] = 0, 0
    for kind in (Rising, Moving):
        masks = kind(POOLS, 1.0, found, frozenset("ab"))
        for step in range(1, 11):
            for weight in found.values():
                weight.grad = torch.randn(20, 50, generator=torch.Generator().manual_seed(step))
            now = masks(found, step / 10)
            assert not any(mask[:10].any() for mask in now.values())
            assert 0.5 <= zeros(now) <= 0.81


@torch.no_grad()
def test_movement_drops_what_training_moves_towards_zero_however_large():
    found = weights()
    masks = Moving(POOLS, 0.5, found, frozenset())
    outwards = {name: torch.rand(20, 50, generator=torch.Generator().manual_seed(3)) < 0.2 for name in found}
    for step in range(1, 21):
        for name, weight in found.items():
            weight.grad = torch.where(outwards[name], -weight.sign(), weight.sign())
        now = masks(found, step / 20)
        for name, mask in now.items():
            found[name].mul_(mask)
    agree = torch.cat([(now[name] == outwards[name]).flatten() for name in found]).float().mean()
    assert agree > 0.95


@torch.no_grad()
def test_movement_brings_back_what_training_wants_with_the_value_it_had():
    found = {"a": torch.nn.Parameter(torch.arange(1.0, 11).view(2, 5))}
    first = found["a"].clone()
    masks = Moving([Pool(("a",), 0.5)], 0.2, found, frozenset())
    towards = torch.tensor([[1.0] * 5, [-1.0] * 5])
    for step in range(1, 51):
        found["a"].grad = towards if step <= 12 else -30 * towards
        now = masks(found, step / 50)["a"]
        found["a"].mul_(now)
        if step == 12:
            assert now.tolist() == [[False] * 5, [True] * 5]
    assert now.tolist() == [[True] * 5, [False] * 5]
    assert torch.equal(found["a"][0], first[0])
