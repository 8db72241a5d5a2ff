"""How many components stand out, against brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from haversack.techniques.factorize.ways import _threshold, energy_rank, vbmf_rank


def planted(rows: int, columns: int, strengths: list[float], noise: float = 1.0) -> np.ndarray:
    """The squared singular values of noise with components of given strengths, in units of the noise's own largest."""
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.standard_normal((rows, len(strengths))))
    right, _ = np.linalg.qr(random.standard_normal((columns, len(strengths))))
    edge = np.sqrt(rows) + np.sqrt(columns)
    matrix = (left * np.array(strengths) * edge) @ right.T + random.standard_normal((rows, columns))
    return np.linalg.svd(noise * matrix, compute_uv=False) ** 2


@pytest.mark.parametrize("shape", [(40, 200), (200, 40), (60, 60)])
@pytest.mark.parametrize("noise", [1e-3, 1.0, 50.0])
def test_planted_components_are_found_whatever_the_noise(shape, noise):
    assert vbmf_rank(planted(*shape, [6, 5, 4, 3, 2], noise), *shape) == 5


def test_noise_alone_has_no_components():
    assert vbmf_rank(planted(50, 150, [0.0]), 50, 150) == 0
    assert vbmf_rank(np.zeros(4), 4, 9) == 0


def smallest_energy(gamma: float, rows: int, columns: int) -> float:
    """The lowest free energy of one component over none's, by brute force; the noise's variance is 1.

    Nakajima et al. 2013, eq. 8 to 10: the posterior means and variances of both vectors are free, the prior's variances
    at their best.
    """

    def energy(free: np.ndarray) -> float:
        a, b, spread_a, spread_b = np.exp(np.clip(free, -40, 40))
        power_a, power_b = a * a + columns * spread_a, b * b + rows * spread_b
        priors = columns * np.log(power_a / columns / spread_a) + rows * np.log(power_b / rows / spread_b)
        return priors - 2 * a * b * gamma + power_a * power_b

    starts = [[np.log(gamma) / 2, np.log(gamma) / 2, s, s] for s in (-6.0, -3.0, -1.0)]
    options = {"maxiter": 20000, "maxfev": 20000, "xatol": 1e-10, "fatol": 1e-10}
    return min(minimize(energy, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize(("rows", "columns"), [(10, 40), (30, 30)])
def test_a_component_pays_exactly_above_the_threshold(rows, columns):
    edge = np.sqrt(columns * _threshold(rows / columns))
    assert smallest_energy(1.005 * edge, rows, columns) < 0
    assert smallest_energy(0.995 * edge, rows, columns) > -1e-6


@given(st.floats(0.05, 1.0))
def test_the_threshold_is_the_one_of_the_papers_approximation(alpha):
    """tau is about 2.5129 sqrt(alpha) (Nakajima et al. 2013, eq. 22)."""
    tau = 2.5129 * np.sqrt(alpha)
    assert _threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.02)


@settings(max_examples=50)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(0.01, 0.999))
def test_energy_takes_the_fewest_components_that_hold_it(values, share):
    squares = np.sort(np.array(values))[::-1]
    rank = energy_rank(squares, share)
    assert squares[:rank].sum() >= share * squares.sum() * (1 - 1e-9)
    assert rank == 1 or squares[: rank - 1].sum() < share * squares.sum()
    assert energy_rank(np.zeros(3), share) == 1
