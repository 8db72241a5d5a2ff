"""Inputs: what a program is run on where nobody gives it anything, and whether it made of it what it should."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from haversack.integer import Array, IntegerGraph

_SMOOTHER = 8


def random_inputs(graph: IntegerGraph, count: int, seed: int) -> list[Array]:
    """Random inputs, half of them smooth: noise alone saturates what a network makes of it."""
    draw = np.random.default_rng(seed)
    return [_numbers(graph, name, count, draw) for name in graph.inputs]


def _numbers(graph: IntegerGraph, name: str, count: int, draw: np.random.Generator) -> Array:
    value = graph.values[name]
    shape = (count, *value.shape[1:])
    if value.grid is None:
        tables = [graph.values[each.inputs[0]].shape[0] for each in graph.operations if name in each.inputs[1:]]
        return np.asarray(draw.integers(0, min(tables, default=2), shape), value.dtype)
    info = np.iinfo(value.dtype)
    noise = draw.integers(info.min, info.max + 1, shape)
    level = draw.integers(info.min, info.max + 1, (count, *(1,) * (len(shape) - 1)))
    smooth = np.clip(level + noise // _SMOOTHER, info.min, info.max)
    return np.asarray(np.where(np.arange(count).reshape(-1, *(1,) * (len(shape) - 1)) % 2, noise, smooth), value.dtype)


def differing_bytes(ours: Sequence[Array], reference: Sequence[Array]) -> int:
    """How many bytes of the outputs differ from the reference's, of as many samples as were run."""
    pairs = ((one, other[: len(one)]) for one, other in zip(ours, reference, strict=True))
    return sum(int((one.view(np.uint8) != other.view(np.uint8)).sum()) for one, other in pairs)
