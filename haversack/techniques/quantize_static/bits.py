"""Sensitivity: what few bits cost in each layer, and how to spend bits where they count (Dong et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import fx

from haversack.graph.folded import tensor_of
from haversack.graph.ops import layers
from haversack.graph.pairs import insert
from haversack.graph.run import Batches, joined
from haversack.grid import symmetric
from haversack.progress import track

_SAMPLES = 256
_BUCKETS = 4096
# A number, however small, keeps two layers of no measured loss from being a draw.
_TINY = 1e-12

Losses = Mapping[str, Mapping[int, float]]


def sensitivity(network: fx.GraphModule, bits: Sequence[int], batches: Batches) -> Losses:
    """For each weight and number of bits: the error of the outputs when this weight alone has so few bits.

    The error is the mean square over at most 256 samples, relative to the outputs' own mean square. Weights are rounded
    to the nearest point of a grid with one step an output channel.
    """
    inputs = joined(batches, _SAMPLES)
    with torch.no_grad():
        wanted = network(*inputs)
        power = float(wanted.square().mean()) + _TINY
        found: dict[str, dict[int, float]] = {}
        names = list(dict.fromkeys(name for _, name in layers(network)))
        for name, few in track([(name, few) for name in names for few in bits], "sensitivity", len(names) * len(bits)):
            limits = tensor_of(network, name).abs().flatten(1).amax(1)
            outputs = insert(network, {name: symmetric(limits, axis=0, bits=few)})(*inputs)
            found.setdefault(name, {})[few] = float((outputs - wanted).square().mean()) / power
    return found


def allocate(losses: Losses, costs: Mapping[str, Mapping[int, float]], limit: float) -> dict[str, int]:
    """Bits for each weight, of the least sum of losses whose sum of costs is at most `limit`.

    A multiple-choice knapsack, solved by dynamic programming over 4096 steps of cost, each rounded up: the limit holds
    strictly, and the loss is the least to within that rounding. Where even the cheapest choices cost more than
    `limit`, these are the answer.
    """
    names = list(losses)
    cheapest = {name: min(costs[name].values()) for name in names}
    finest = {name: min(losses[name], key=losses[name].__getitem__) for name in names}
    if sum(costs[name][few] for name, few in finest.items()) <= limit:
        return finest
    room = limit - sum(cheapest.values())
    if room <= 0:
        return {name: min(costs[name], key=costs[name].__getitem__) for name in names}
    least, chosen = np.zeros(_BUCKETS + 1), []
    for name in names:
        options = list(losses[name])
        steps = [int(np.ceil((costs[name][each] - cheapest[name]) / room * _BUCKETS - 1e-9)) for each in options]
        totals = np.stack(
            [_shifted(least, step) + losses[name][each] for each, step in zip(options, steps, strict=True)]
        )
        choice = totals.argmin(0)
        least = totals.min(0)
        chosen.append([(options[index], steps[index]) for index in choice])
    return _walked_back(names, chosen)


def _shifted(least: np.ndarray, step: int) -> np.ndarray:
    """The least losses when `step` of the room is spent on one more layer."""
    if step > _BUCKETS:
        return np.full_like(least, np.inf)
    return np.concatenate([np.full(step, np.inf), least[: len(least) - step]])


def _walked_back(names: Sequence[str], chosen: Sequence[Sequence[tuple[int, int]]]) -> dict[str, int]:
    left, bits = _BUCKETS, {}
    for name, choices in zip(reversed(names), reversed(chosen), strict=True):
        bits[name], step = choices[left]
        left -= step
    return {name: bits[name] for name in names}
