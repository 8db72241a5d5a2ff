import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from haversack.numerics.codebook import k_means


@settings(deadline=None, max_examples=30)
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
