"""Schedule: how long plans are trained, and what of a recipe trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from haversack.recipe import Recipe, Stage, Step

_NUMBERS = 1 / 6
"""For so much of the time that a plan is trained for its numbers are."""


@dataclass(frozen=True)
class Schedule:
    """How plans are trained: each for a short time, and the best of them for a long one more."""

    short: Step | None
    """None where the long time is too short to compare rivals in a part of it: only the first is trained then."""
    long: Step


def with_training(recipe: Recipe, training: Step) -> Recipe:
    """The recipe with the training, after which numbers that can be trained are, for a part of that time."""
    epochs = math.ceil(training.epochs * _NUMBERS)
    return Recipe(tuple(_for(epochs, step) if step in recipe.steps else step for step in recipe.then(training).steps))


def _for(epochs: int, step: Step) -> Step:
    """A step that trains so long, if it chooses numbers and can; any other as it is."""
    able = step.stage is Stage.NUMERICS and any(each.name == "epochs" for each in fields(step))  # type: ignore[arg-type]
    return replace(step, epochs=epochs) if able else step  # type: ignore[type-var]
