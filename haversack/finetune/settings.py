"""How long and how hard to train, and from whom."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from haversack.errors import RecipeError
from haversack.finetune.outputs import Outputs

Optimizer = Literal["sgd", "adam"]
Features = Literal["none", "fitnet", "attention", "relations"]
"""Which of the layers' values the student imitates, beside the outputs (see features.py)."""


@dataclass(frozen=True)
class Training:
    """How long and how hard to train.

    SGD with Nesterov momentum, or Adam (Kingma 2015) where parameters differ in scale, as folded weights and steps do;
    the learning rate rises over the first tenth and falls to zero as a cosine (Loshchilov 2017). `distillation` is the
    share of the loss that comes from the teacher's outputs, compared as `outputs` says (see outputs.py). `features`
    adds `feature_weight` times the distance between inner values of layers that are paired by themselves, or by
    `pairs`: "path in the student=path in the teacher".
    """

    epochs: int = 2
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    distillation: float = 0.7
    temperature: float = 3.0
    seed: int = 0
    optimizer: Optimizer = "sgd"
    outputs: Outputs = "kd"
    features: Features = "none"
    feature_weight: float = 1.0
    pairs: tuple[str, ...] = ()


def check_settings(epochs: int, learning_rate: float, *, example: float) -> None:
    """Raises RecipeError, which names the setting, where a step cannot train so; `example` is a rate that can be."""
    if not isinstance(epochs, int) or epochs < 0:
        raise RecipeError(f"epochs is {epochs}.", mend="write a whole number from 0 up.")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise RecipeError(f"learning_rate is {learning_rate}.", mend=f"write a number above 0, such as {example}.")
