"""Layers to factorize, and what reads like real inputs: neighbouring pixels and channels have much in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from haversack.calibration.least_squares import Problem, problem_of
from haversack.calibration.patches import geometry_of
from haversack.techniques._exchange.sites import Replacement, with_replacements


def correlated(*shape: int) -> Tensor:
    """Inputs whose channels mix a few sources, smooth along the last dimension; a mean that is not zero."""
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    mix = torch.randn(channels, channels, generator=generator) * torch.linspace(1, 0.05, channels) ** 2
    values = torch.einsum("ij,nj...->ni...", mix, torch.randn(shape, generator=generator))
    if len(shape) > 2:
        values = values + 2 * values.roll(1, -1) + values.roll(2, -1)
    return values + torch.linspace(-1, 1, channels).view(-1, *[1] * (len(shape) - 2))


def problem(layer: nn.Module, inputs: Tensor | None = None) -> Problem:
    geometry = geometry_of(layer)
    assert geometry is not None
    return problem_of(layer, geometry, [] if inputs is None else [inputs])


def run(layer: nn.Module, factors: Replacement, inputs: Tensor) -> Tensor:
    """The outputs of the layers that took the place of `layer`."""
    module, _ = with_replacements(nn.Sequential(layer), {"0": factors})
    with torch.no_grad():
        return module(inputs)


def lost(layer: nn.Module, factors: Replacement, inputs: Tensor) -> float:
    """The squared output error over the outputs' spread."""
    with torch.no_grad():
        wanted = layer(inputs)
    return float((run(layer, factors, inputs) - wanted).pow(2).mean() / wanted.pow(2).mean())
