import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from haversack.techniques.cluster_weights.codebook import entropy_constrained, halved, k_means


@settings(max_examples=30)
@given(size=st.integers(1, 400), bits=st.integers(1, 6), zeros=st.booleans(), seed=st.integers(0, 999))
def test_each_element_is_the_nearest_of_few_centroids(size, bits, zeros, seed):
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    if zeros:
        weight[::3] = 0
    found = k_means(weight, 2**bits, keep_zero=zeros)
    assert len(found.centroids) <= 2**bits
    distances = (weight[:, None] - found.centroids).abs()
    torch.testing.assert_close(distances.amin(1), (weight - found.values).abs())
    assert not found.values[weight == 0].any() or not zeros


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_error_is_near_that_of_scikit_learns_best_of_ten_starts(bits):
    weight = torch.randn(3000, generator=torch.Generator().manual_seed(0))
    found = k_means(weight, 2**bits, keep_zero=False)
    oracle = KMeans(2**bits, n_init=10, random_state=0).fit(weight[:, None].numpy())
    assert float((weight - found.values).square().sum()) <= 1.35 * oracle.inertia_


def test_a_tensor_of_one_number_has_one_centroid():
    found = k_means(torch.full((50,), 0.3), 16, keep_zero=False)
    assert found.centroids.tolist() == pytest.approx([0.3])


def cost(weight, book, entropy_weight):
    shares = book.indices.unique(return_counts=True)[1] / weight.numel()
    error = (book.values - weight).double().square().mean() / weight[weight != 0].double().square().mean()
    return float(error - entropy_weight * (shares * shares.log2()).sum())


@settings(max_examples=30)
@given(
    size=st.integers(1, 400),
    bits=st.integers(1, 4),
    zeros=st.booleans(),
    price=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_counting_bits_never_makes_error_and_bits_together_worse(size, bits, zeros, price, seed):
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    weight[: size // 2] = 0
    start = k_means(weight, 2**bits, keep_zero=zeros)
    found = entropy_constrained(weight, start, price)
    assert len(found.centroids) <= len(start.centroids)
    assert found.indices.shape == weight.shape
    assert not zeros or not found.values[weight == 0].any()
    assert cost(weight, found, price) <= cost(weight, start, price) + 1e-6


def test_bits_that_cost_much_leave_one_value():
    weight = torch.randn(500, generator=torch.Generator().manual_seed(0))
    found = entropy_constrained(weight, k_means(weight, 8, keep_zero=False), 100.0)
    assert found.centroids.tolist() == pytest.approx([float(weight.mean())], abs=1e-6)


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_what_float16_cannot_hold_is_left_alone(numbers):
    tensor = torch.tensor(numbers)
    found = halved(tensor)
    assert torch.equal(found, tensor) or torch.equal(found, tensor.half().float())
    torch.testing.assert_close(found, tensor, rtol=2**-10, atol=0)
