"""Randomness: the generators of torch, NumPy and Python that data, dropout and initial weights draw from."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from haversack.graph.named_tensors import Tensors


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this block all generators start from `seed`; after it they go on as if nothing had been drawn."""
    with unheard():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - users' data draw from NumPy's global generator
        random.seed(seed)
        yield


@contextmanager
def unheard() -> Iterator[None]:
    """What is drawn within this block leaves all generators as they were."""
    before = generators()
    try:
        yield
    finally:
        set_generators(before)


def generators() -> dict[str, Tensor]:
    """The states of all generators, as tensors."""
    drawn = np.random.get_state(legacy=False)  # noqa: NPY002
    version, words, next_gauss = random.getstate()
    next_gauss = math.nan if next_gauss is None else next_gauss
    numbers = [drawn["state"]["pos"], drawn["has_gauss"], drawn["gauss"], version, next_gauss]
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(drawn["state"]["key"].astype(np.int64)),
        "python": torch.tensor(words),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generators(states: Tensors) -> None:
    """Puts all generators into `states`."""
    position, has_gauss, gauss, version, next_gauss = states["numbers"].tolist()
    torch.set_rng_state(states["torch"].contiguous())
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    words = tuple(states["python"].tolist())
    random.setstate((int(version), words, None if math.isnan(next_gauss) else next_gauss))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
