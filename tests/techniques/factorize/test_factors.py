"""Factors give the layer back at full rank, and lose little of its output below it."""

import itertools

import numpy as np
import pytest
import torch
from factor_layers import correlated, lost, problem, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from haversack.calibration.patches import geometry_of, macs, parameters
from haversack.errors import RecipeError
from haversack.techniques.factorize.cp import stable
from haversack.techniques.factorize.ways import METHODS, decomposed, factorized, fitting, loss

sizes = st.integers(2, 7)


@st.composite
def layers(draw):
    """A convolution or a linear layer with a shape of its own, and inputs that it takes."""
    kind = draw(st.sampled_from(["conv2d", "conv1d", "linear"]))
    inputs, outputs, bias = draw(sizes), draw(sizes), draw(st.booleans())
    torch.manual_seed(0)
    if kind == "linear":
        return nn.Linear(inputs, outputs, bias), correlated(20, inputs)
    dims = 2 if kind == "conv2d" else 1
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(dims))
    strides = [tuple(draw(st.integers(1, 3)) for _ in range(dims)), (1,) * dims]
    padding = draw(st.sampled_from(["same", "valid", tuple(size // 2 for size in kernel)]))
    stride = strides[padding == "same"]
    layer = (nn.Conv2d, nn.Conv1d)[dims == 1](inputs, outputs, kernel, stride, padding, dilation, bias=bias)
    return layer, correlated(3, inputs, *(11, 9)[:dims])


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=40)
@given(layers())
def test_the_full_rank_gives_the_layer_back(drawn):
    layer, inputs = drawn
    ours = problem(layer, inputs)
    with torch.no_grad():
        wanted = layer(inputs)
    for way in fitting(ours.geometry):
        for each in (ours, ours.without_inputs()):
            found = run(layer, factorized(each, way.name, way.full(ours.geometry)), inputs)
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=40)
@given(layers())
def test_patches_times_the_weight_are_the_outputs(drawn):
    layer, inputs = drawn
    geometry = geometry_of(layer)
    with torch.no_grad():
        wanted = layer(inputs)
        found = geometry.patches(inputs) @ layer.weight.flatten(1).T + (layer.bias if geometry.bias else 0)
    wanted = wanted if geometry.kind == "Linear" else wanted.flatten(2).mT.flatten(0, 1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def layer(request) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(12, 16, 3, 2, 1, bias=request.param)


@pytest.mark.parametrize("method", METHODS)
def test_the_error_falls_with_the_rank_and_is_the_one_foretold(layer, method):
    inputs = correlated(16, 12, 9, 9)
    ours, way = problem(layer, inputs), METHODS[method]
    full = way.full(ours.geometry)
    ladder = [tuple(max(1, rank * step // 8) for rank in full) for step in (1, 2, 4, 6)]
    errors = [lost(layer, factorized(ours, method, ranks), inputs) for ranks in ladder]
    assert all(high > low for high, low in itertools.pairwise(errors))
    if layer.bias is None:
        assert errors[1] == pytest.approx(loss(ours, method, ladder[1]), rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_what_inputs_have_in_common_is_made_use_of(layer, method):
    """The plain factors keep the weight; these keep the output, on calibration inputs and on others."""
    inputs = correlated(16, 12, 9, 9)
    ours = problem(layer, inputs)
    for share in (0.3, 0.5):
        ranks = tuple(max(1, int(rank)) for rank in METHODS[method].ranks(ours.geometry, share))
        aware = lost(layer, factorized(ours, method, ranks), inputs)
        plain = lost(layer, factorized(ours.without_inputs(), method, ranks), inputs)
        assert aware < 0.9 * plain


@settings(max_examples=20)
@given(layers(), st.floats(0.1, 0.9))
def test_a_fit_to_the_inputs_never_loses_more_of_the_output(drawn, share):
    layer, inputs = drawn
    ours = problem(layer, inputs)
    for way in fitting(ours.geometry):
        ranks = tuple(max(1, int(rank * share)) for rank in way.full(ours.geometry))
        plain = way.compose(way.decompose(ours.without_inputs(), ranks))
        aware = ours.error(way.compose(decomposed(ours, way.name, ranks)))
        assert aware <= ours.error(plain) * (1 + 1e-6) + 1e-9


def test_no_layers_of_that_rank_lose_less_than_ours():
    """The oracle: what a matrix of that rank can keep of the outputs at all (Eckart and Young 1936)."""
    torch.manual_seed(0)
    layer, inputs = nn.Linear(10, 8, bias=False), correlated(200, 10)
    squares = np.linalg.svd((inputs @ layer.weight.detach().T).numpy(), compute_uv=False) ** 2
    for rank in (1, 3, 5):
        best = squares[rank:].sum() / squares.sum()
        found = lost(layer, factorized(problem(layer, inputs), "svd", (rank,)), inputs)
        assert best * (1 - 1e-4) <= found <= best * 1.1


@pytest.mark.parametrize(("ranks", "full"), [((0,), "30"), ((31,), "30")])
def test_a_rank_out_of_range_is_refused_with_the_full_one(ranks, full):
    ours = problem(nn.Conv2d(10, 12, 3))
    with pytest.raises(RecipeError, match=f"full rank of this layer is {full}"):
        factorized(ours, "spatial", ranks)
    with pytest.raises(RecipeError, match="full rank of this layer is 10 x 12"):
        factorized(ours, "tucker", (4, 13))


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("method", METHODS)
def test_ranks_of_a_share_hold_that_share_of_the_numbers(method, share):
    geometry = geometry_of(nn.Conv2d(64, 96, 3, bias=False))
    way = METHODS[method]
    ranks = tuple(round(rank) for rank in way.ranks(geometry, share))
    assert parameters(way.layers(geometry, ranks)) == pytest.approx(share * 64 * 96 * 9, rel=0.05)


def test_multiply_accumulates_are_counted_where_they_are_done():
    geometry = geometry_of(nn.Conv2d(4, 8, 3, 2, 1))
    way = METHODS["tucker"]
    # On 8 x 8 pixels: the way in sees 64, core and way out 16.
    assert macs(way.layers(geometry, (2, 3)), (1, 4, 8, 8)) == 64 * 4 * 2 + 16 * (2 * 3 * 9 + 3 * 8)


def sizes_of(factors: tuple[torch.Tensor, ...]) -> float:
    return sum(float(factor.pow(2).sum()) for factor in factors)


def degenerate(size: int) -> torch.Tensor:
    """A tensor of rank 3 that rank 2 comes as close to as one likes, with ever larger components that cancel."""
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    a, b = turn[:2]
    return sum(torch.einsum("o,i,p->oip", *each) for each in ((a, a, b), (a, b, a), (b, a, a)))


def test_components_stay_bounded_where_the_best_ones_do_not_exist():
    """Without a price they grow for as long as one goes on; with one they settle."""
    wanted = degenerate(3)
    free, priced = ([stable(wanted, 2, price, sweeps=sweeps) for sweeps in (40, 400)] for price in (0.0, 1e-2))
    assert sizes_of(free[1]) > 1.3 * sizes_of(free[0])
    assert sizes_of(priced[1]) == pytest.approx(sizes_of(priced[0]), rel=0.01)
    assert float((torch.einsum("or,ir,pr->oip", *priced[1]) - wanted).norm() / wanted.norm()) < 0.1


def test_our_decompositions_are_as_close_as_tensorlys():
    tensorly = pytest.importorskip("tensorly", reason="tensorly is not installed")
    from tensorly.decomposition import parafac, partial_tucker

    torch.manual_seed(0)
    layer = nn.Conv2d(8, 10, 3, bias=False)
    ours, weight = problem(layer), layer.weight.detach().double().flatten(2)
    (core, ways), _ = partial_tucker(weight.numpy(), rank=[5, 4], modes=[0, 1], n_iter_max=50)
    theirs = tensorly.tenalg.multi_mode_dot(core, ways, modes=[0, 1])
    assert loss(ours, "tucker", (4, 5)) <= 1.01 * ours.error(torch.from_numpy(theirs))
    theirs = parafac(weight.numpy(), 12, n_iter_max=100, init="random", random_state=0).to_tensor()
    assert loss(ours, "cp", (12,)) <= 1.1 * ours.error(torch.from_numpy(theirs))
