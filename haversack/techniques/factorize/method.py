"""Method: one way to write a weight as factors, as a row of functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from haversack.calibration.least_squares import Problem
from haversack.calibration.patches import Geometry
from haversack.model import Layer
from haversack.techniques._exchange import Ranks

Factors = tuple[Tensor, ...]


@dataclass(frozen=True)
class Method:
    """What a way of factorizing can do; `ranks` has one number, or one a side where both sides shrink."""

    name: str
    suits: Callable[[Geometry], bool]
    full: Callable[[Geometry], Ranks]
    """The ranks at which nothing is lost."""
    ranks: Callable[[Geometry, float], tuple[float, ...]]
    """The ranks, not yet rounded, with which the factors hold this share of the weight's numbers."""
    decompose: Callable[[Problem, Ranks], Factors]
    compose: Callable[[Factors], Tensor]
    """The weight (outputs, inputs, pixels) that factors stand for."""
    layers: Callable[[Geometry, Ranks], tuple[Layer, ...]]
    weights: Callable[[Factors, Geometry], tuple[Tensor, ...]]
    """The factors in the shapes of the layers' weights."""
    sides: Callable[[Problem], tuple[Tensor, ...]] | None = None
    """One a rank: a matrix times itself, whose eigenvalues tell how much each rank keeps; None where no matrix does."""
    plain_may_win: bool = True
    """Whether a fit to the inputs may turn out worse than none, and both are tried."""
