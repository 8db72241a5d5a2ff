"""Grids, held against torch's own fake quantization and against integers beyond float32's reach."""

import json
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from haversack.errors import RecipeError
from haversack.grid import Grid, affine, round_, symmetric
from haversack.untrusted import typed

finite = st.floats(-1e4, 1e4, width=32)
values = arrays("float32", st.integers(1, 40), elements=finite).map(torch.from_numpy)
tables = arrays("float32", st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=finite).map(torch.from_numpy)
many = settings(max_examples=60)


@st.composite
def affine_grids(draw):
    low, high = sorted((draw(finite), draw(finite)))
    return affine(low, high, bits=draw(st.integers(2, 8)), signed=draw(st.booleans()))


def is_tie(real: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Where torch, which multiplies by a rounded 1/scale, may round the other way."""
    steps = real.double() / scale.double()
    return ((steps - steps.floor()) - 0.5).abs() < steps.abs() * 2**-22 + 1e-6


@many
@given(values, affine_grids())
def test_rounding_to_a_tensor_s_grid_is_what_torch_does(real, grid):
    wanted = torch.fake_quantize_per_tensor_affine(real, grid.scale[0], grid.zero_point[0], grid.qmin, grid.qmax)
    found = grid.round(real)
    assert torch.equal(found[~is_tie(real, torch.tensor(grid.scale))], wanted[~is_tie(real, torch.tensor(grid.scale))])
    assert ((found - wanted).abs() <= grid.scale[0] * 1.001).all()


@many
@given(tables, st.integers(2, 8))
def test_rounding_along_an_axis_is_what_torch_does(real, bits):
    grid = symmetric(real.abs().amax(1), axis=0, bits=bits)
    scale = torch.tensor(grid.scale)
    zero = torch.zeros(len(scale), dtype=torch.int32)
    wanted = torch.fake_quantize_per_channel_affine(real, scale, zero, 0, grid.qmin, grid.qmax)
    clear = ~is_tie(real, scale[:, None])
    assert torch.equal(grid.round(real)[clear], wanted[clear])


def test_ties_go_to_the_even_integer_and_what_lies_outside_to_the_ends():
    grid = Grid(8, True, (1.0,), (0,))
    real = torch.tensor([-0.5, 0.5, 1.5, 2.5, -300.0, 300.0])
    assert grid.quantize(real).tolist() == [0, 0, 2, 2, -128, 127]


@many
@given(affine_grids())
def test_zero_is_exact_on_every_affine_grid(grid):
    assert grid.round(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]
    assert grid.low <= 0.0 <= grid.high


@many
@given(finite, finite, st.booleans())
def test_an_affine_grid_reaches_both_ends_within_half_a_step(low, high, signed):
    low, high = min(low, high), max(low, high)
    grid = affine(low, high, signed=signed)
    ends = torch.tensor([low, high])
    assert ((grid.round(ends) - ends).abs() <= grid.scale[0] * 0.5001 + 1e-7).all()


@many
@given(affine_grids())
def test_a_grid_survives_json(grid):
    assert typed(Grid, json.loads(json.dumps(grid.to_json()))) == grid


@many
@given(tables)
def test_a_grid_with_an_axis_survives_json(real):
    grid = symmetric(real.abs().amax(1), axis=0)
    assert typed(Grid, json.loads(json.dumps(grid.to_json()))) == grid


@many
@given(tables, st.integers(2, 8))
def test_symmetric_integers_never_exceed_the_largest_one(real, bits):
    found = symmetric(real.abs().amax(1), axis=0, bits=bits).quantize(real)
    assert found.abs().max() <= 2 ** (bits - 1) - 1


@many
@given(tables)
def test_symmetric_grids_lose_at_most_half_a_step(real):
    grid = symmetric(real.abs().amax(1), axis=0)
    assert ((grid.round(real) - real).abs() <= torch.tensor(grid.scale)[:, None] * 0.5001).all()


@many
@given(st.integers(-(2**31), 2**31 - 1), st.floats(2**-20, 2**-7, width=32))
def test_a_32_bit_bias_is_exact_beyond_24_bits(integer, scale):
    grid = Grid(32, True, (scale,), (0,))
    real = torch.tensor([integer], dtype=torch.float64) * scale
    assert grid.quantize(real).tolist() == [integer]
    # The nearest float32 to the true product, which is what a file's reader computes.
    found = grid.dequantize(torch.tensor([integer], dtype=torch.int32)).item()
    exact = Fraction(integer) * Fraction(scale)
    assert abs(Fraction(found) - exact) <= abs(exact) * Fraction(1, 2**24)


def test_integers_are_stored_in_the_narrowest_type():
    assert Grid(8, True, (1.0,), (0,)).dtype == torch.int8
    assert Grid(7, False, (1.0,), (0,)).dtype == torch.uint8
    assert Grid(32, True, (1.0,), (0,)).dtype == torch.int32


@pytest.mark.parametrize(
    "settings_",
    [
        {"scale": (0.0,)},
        {"scale": (-1.0,)},
        {"scale": (math.inf,)},
        {"scale": (math.nan,)},
        {"scale": (1.0, 1.0), "zero_point": (0, 0)},
        {"scale": (1.0, 1.0), "axis": 0},
        {"zero_point": (200,)},
        {"zero_point": (-129,)},
        {"axis": -1},
        {"qmin": 5, "qmax": 5},
        {"qmin": -200, "qmax": 5},
        {"bits": 1},
        {"bits": 33},
    ],
)
def test_a_bad_grid_is_refused(settings_):
    with pytest.raises(RecipeError):
        Grid(**{"bits": 8, "signed": True, "scale": (1.0,), "zero_point": (0,), **settings_})


@pytest.mark.parametrize("ends", [(-math.inf, 1.0), (0.0, math.nan), (math.nan, math.nan), (0.0, math.inf)])
def test_no_grid_is_made_of_ends_that_are_not_finite(ends):
    with pytest.raises(RecipeError, match="mend it"):
        affine(*ends)


def test_limits_that_hold_nan_make_no_symmetric_grid():
    with pytest.raises(RecipeError):
        symmetric(torch.tensor([1.0, math.nan]), axis=0)


def test_what_was_zero_throughout_gets_a_step_of_common_size():
    assert affine(0.0, 0.0).scale[0] == pytest.approx(1 / 255)


@many
@given(
    arrays("float32", 30, elements=st.floats(-(2**22), 2**22, width=32) | st.integers(-999, 999).map(lambda n: n / 2))
)
def test_numbers_round_as_torch_rounds_them(numbers):
    real = torch.from_numpy(numbers)
    assert torch.equal(round_(real.clone()), real.round())


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("bits", [4, 8, 16, 32])
def test_what_is_stored_is_what_was_quantized_however_large_the_tensor_is(axis, bits):
    torch.manual_seed(0)
    real = torch.randn(700, 500)
    count = 1 if axis is None else real.shape[axis]
    grid = Grid(bits, True, tuple((torch.rand(count) / 2 ** (bits - 3)).tolist()), (1,) * count, axis)
    stored = grid.stored(real)
    assert stored.dtype == grid.dtype
    assert torch.equal(stored.to(torch.int32), grid.quantize(real))
