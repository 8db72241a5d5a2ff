"""Tensors of every form for hypothesis to choose from, and what it means that two are the same."""

from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import strategies as st

from haversack.coded.arrays import KINDS
from haversack.coded.tensors import Codebook, Integers, Raw, Stored

SHAPES = (
    st.lists(st.integers(0, 9), max_size=4).map(tuple)
    | st.just((8, 6, 3, 3))
    | st.tuples(st.integers(1, 40), st.integers(1, 40))
)
SEEDS = st.integers(0, 2**32 - 1)


def skewed(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Integers from low to high: one value, few, one that is most, rows of unlike width, smooth, or all alike."""
    kind = rng.integers(6)
    if kind == 0:
        return np.full(shape, rng.integers(low, high + 1))
    if kind == 1:
        return rng.choice(rng.integers(low, high + 1, 4), shape)
    if kind == 2:
        return np.where(rng.random(shape) < 0.9, (low + high) // 2, rng.integers(low, high + 1, shape))
    if kind == 5:
        walk = rng.normal(0, (high - low) / 6, shape).cumsum(-1 if shape else None).reshape(shape)
        return np.clip(np.rint((low + high) / 2 + walk), low, high).astype(int)
    if kind == 3:
        width = rng.gamma(1.0, (high - low) / 8, (*shape[:1], *[1] * (len(shape) - 1)))
        return np.clip(np.rint(rng.normal((low + high) / 2, width, shape)), low, high).astype(int)
    return rng.integers(low, high + 1, shape)


def integers(seed: int, shape: tuple[int, ...]) -> Integers:
    rng = np.random.default_rng(seed)
    bits, signed = int(rng.integers(2, 17)), bool(rng.integers(2))
    low = -(1 << bits - 1) if signed else 0
    values = skewed(rng, shape, low, low + (1 << bits) - 1)
    axes = [None, *(axis for axis, extent in enumerate(shape) if extent)]
    axis = axes[rng.integers(len(axes))]
    steps = 1 if axis is None else shape[axis]
    if axis == 0 and np.prod(shape[1:]) % 2 == 0 and values.size:
        steps *= int(rng.integers(1, 3))
    zeros = rng.integers(low, low + (1 << bits), steps) if rng.integers(2) else np.zeros(0)
    return Integers(values, rng.gamma(2, 0.01, steps), zeros, axis, bits, signed, bool(rng.integers(2)))


def codebook(seed: int, shape: tuple[int, ...]) -> Codebook:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 257))
    return Codebook(
        skewed(rng, shape, 0, count - 1), rng.normal(size=count).astype(rng.choice([np.float16, np.float32]))
    )


def raw(seed: int, shape: tuple[int, ...]) -> Raw:
    rng = np.random.default_rng(seed)
    dtype = KINDS[rng.integers(len(KINDS))]
    if dtype.kind == "f":
        return Raw(rng.normal(size=shape).astype(rng.choice([np.float16, np.float32])).astype(dtype))
    ends = np.iinfo(dtype)
    return Raw(skewed(rng, shape, max(ends.min, -(2**40)), min(ends.max, 2**40)).astype(dtype))


STORED = st.builds(
    lambda make, seed, shape: make(seed, shape), st.sampled_from([integers, codebook, raw]), SEEDS, SHAPES
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40) | st.sampled_from(
    ["conv1.weight", "conv1.bias", "conv2.weight", "layer1.0.conv1.weight", "layer1.0.bias", ".weight", ".bias"]
)


def same(one: Stored, other: Stored) -> bool:
    """Whether two tensors are of one form and hold the same, to the bit."""
    if type(one) is not type(other):
        return False
    pairs = [(getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one)]
    return all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) if isinstance(a, np.ndarray) else a == b
        for a, b in pairs
    )
