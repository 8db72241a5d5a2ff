"""Ranks: how many components of a matrix are worth keeping."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def energy_rank(squares: Numbers, share: float) -> int:
    """The fewest components that hold `share` of the sum of the squared singular values, largest first; at least 1."""
    held = np.cumsum(squares)
    return 1 if held[-1] <= 0 else min(len(held), int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))) + 1)


def vbmf_rank(squares: Numbers, rows: int, columns: int) -> int:
    """How many components of a (rows, columns) matrix stand out of white noise; 0 where none does.

    `squares` are its squared singular values, largest first. The global solution of empirical variational Bayesian
    matrix factorization in closed form, the noise's variance estimated too (Nakajima et al. 2013, "Global Analytic
    Solution of Fully-observed Variational Bayesian Matrix Factorization", JMLR 14, theorem 2 and corollary 2).
    """
    less, more = min(rows, columns), max(rows, columns)
    squares = np.asarray(squares, dtype=np.float64)[:less]
    if squares.sum() <= 0:
        return 0
    alpha = less / more
    threshold = _threshold(alpha)
    # A component is kept where its square exceeds this multiple of the noise; at most so many may be.
    most = min(math.ceil(less / (1 + alpha)) - 1, less - 1)
    noise = squares[most:].mean() / more
    low = max(squares[most] / (more * threshold), noise, squares.mean() / more * 1e-12)
    high = max(squares.sum() / (less * more), low)
    variance = _lowest(lambda guess: _free_energy(squares / (more * guess), alpha, threshold), low, high)
    return int((squares > more * variance * threshold).sum())


def _threshold(alpha: float) -> float:
    """The squared singular value over the noise at which keeping a component and dropping it cost the same."""

    def balance(tau: float) -> float:
        ratio = tau / alpha
        return math.log1p(tau) / tau + math.log1p(ratio) / ratio - 1

    low, high = 1e-6, 1e6
    while high / low > 1 + 1e-12:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if balance(middle) > 0 else (low, middle)
    return (1 + low) * (1 + alpha / low)


def _free_energy(squares: Numbers, alpha: float, threshold: float) -> float:
    """The free energy of a guess of the noise, but for constants; `squares` are in units of it."""
    total = float((squares - np.log(np.maximum(squares, 1e-300))).sum())
    kept = squares[squares > threshold]
    over = kept - (1 + alpha)
    tau = 0.5 * (over + np.sqrt(over**2 - 4 * alpha))
    return total + float((np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau).sum())


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where `function` is lowest between two positive numbers; it may have several valleys."""
    for _ in range(4):
        grid = np.geomspace(low, high, 65)
        place = int(np.argmin([function(float(value)) for value in grid]))
        low, high = float(grid[max(place - 1, 0)]), float(grid[min(place + 1, len(grid) - 1)])
    return math.sqrt(low * high)
