"""Weights and their next versions, the same on every machine."""

from __future__ import annotations

import numpy as np

from haversack.coded.tensors import Codebook, Integers, Raw, Stored

SHAPE = (12, 8, 3, 3)


def old() -> dict[str, Stored]:
    """A pruned network of each form, without random numbers: numpy may draw others one day."""
    numbers = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    weights = np.where(numbers % 3 == 0, numbers * 7919 % 255 - 127, 0)
    scale = (np.arange(12) + 1).astype(np.float32) / 512
    return {
        "conv.weight": Integers(weights, scale, axis=0),
        "conv.bias": Raw((np.arange(12) - 5).astype(np.float32) / 8),
        "wide": Integers(numbers[0] * 331 % 65535 - 32767, [0.25], bits=16),
        "fc.weight": Codebook(numbers[:, :, 0, 0] * 31 % 7, (np.arange(7) - 3).astype(np.float32)),
        "counts": Raw(np.arange(5)),
    }


def new() -> dict[str, Stored]:
    """A version of it in which some of every kind moved; zeros of the pruned weights stayed."""
    before = old()
    weights = before["conv.weight"].values
    moved = np.arange(weights.size).reshape(SHAPE) % 11 == 0
    nudged = np.where(moved & (weights != 0), weights.astype(int) - np.sign(weights.astype(int)), weights)
    indices = before["fc.weight"].indices.copy()
    indices[3, 4] = (indices[3, 4] + 1) % 7
    wide = before["wide"].values.copy()
    wide[0, 0, 0] += 1
    return before | {
        "conv.weight": Integers(nudged, before["conv.weight"].scale, axis=0),
        "conv.bias": Raw(before["conv.bias"].values + (np.arange(12) % 5 - 2).astype(np.float32) / 1024),
        "wide": Integers(wide, [0.25], bits=16),
        "fc.weight": Codebook(indices, before["fc.weight"].centroids),
    }


def same(one: dict[str, Stored], other: dict[str, Stored]) -> bool:
    """Whether both are the same to the bit, in the same forms."""
    from haversack.coded import container

    return container.plain(one) == container.plain(other)
