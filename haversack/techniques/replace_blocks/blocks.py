"""Blocks: the kinds that may take a convolution's place, and what each loses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.techniques._exchange import Choice
from haversack.techniques._exchange.sites import Replacement
from haversack.techniques.replace_blocks import grouped

Kind = Literal["separable", "grouped", "shuffle"]


def suits(geometry: Geometry) -> bool:
    """Whether the layer is an ordinary convolution: one whose kernel reads more than one pixel."""
    return geometry.pixels > 1


def ladder(geometry: Geometry) -> Iterator[Choice]:
    """Blocks of every kind, of ever smaller cost."""
    for shape in grouped.ladder(geometry):
        yield Choice(_kind(geometry, shape), (shape.inputs, shape.outputs, shape.rank), shape.layers(geometry))


def loss(problem: Problem, choice: Choice) -> float:
    """The share of the layer's output power that the block loses at first."""
    return problem.error(grouped.fitted(problem, grouped.Shape(*choice.ranks)).weight(problem))


def replacement(problem: Problem, choice: Choice) -> Replacement:
    """The block with its first numbers."""
    fit = grouped.fitted(problem, grouped.Shape(*choice.ranks))
    state = {name: tensor.float() for name, tensor in fit.state(problem).items()}
    return Replacement(choice.layers, state)


def _kind(geometry: Geometry, shape: grouped.Shape) -> Kind:
    if shape.outputs > 1:
        return "shuffle"
    return "separable" if shape.inputs == geometry.inputs else "grouped"
