"""Neighbours: within a kernel, the weight before tells what the next one is likely to be."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CLASSES = 5
"""Far below, below, about, above and far above the mean; a table each."""
FIRST = 2
"""The class of a kernel's first weight, which nothing comes before."""
_DEVIATIONS = np.array([-1.0, -0.3, 0.3, 1.0])


def borders_of(symbols: Array) -> Array:
    """The least symbol of each class but the first, uint8."""
    borders = np.ceil(symbols.mean() + symbols.std() * _DEVIATIONS)
    return np.asarray(np.clip(borders, 0, 255), np.uint8)


def class_of(before: Array, borders: Array) -> Array:
    """The class that each symbol puts the next one in: how many borders it reaches; uint8."""
    return np.asarray(np.sum([before >= border for border in borders], axis=0, dtype=np.uint8))
