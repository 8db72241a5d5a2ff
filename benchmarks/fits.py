"""How well predictions fit what is true: the line between them, and whether they put things into the same order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def line(seen: Sequence[float], true: Sequence[float]) -> tuple[float, float]:
    """The a and b at which a + b * seen is off by the least squares of shares of what is true."""
    share = 1 / np.asarray(true)
    rows = np.stack([share, np.asarray(seen) * share], 1)
    a, b = np.linalg.lstsq(rows, np.ones(len(share)), rcond=None)[0].tolist()
    return a, b


def spearman(one: ArrayLike, other: ArrayLike) -> float:
    """The correlation of the ranks, equals sharing theirs."""
    return float(np.corrcoef(_ranks(np.asarray(one, float)), _ranks(np.asarray(other, float)))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    below = (values[:, None] > values[None]).sum(1)
    return below + ((values[:, None] == values[None]).sum(1) - 1) / 2
