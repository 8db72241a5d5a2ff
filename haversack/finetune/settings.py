"""How long and how hard to train, and from whom."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from haversack.errors import RecipeError
from haversack.finetune.outputs import Outputs

Optimizer = Literal["sgd", "adam"]
Schedule = Literal["cosine", "one_cycle"]
Features = Literal["", "fitnet", "attention", "similarity"]
"""What is compared inside the networks: nothing, maps (Romero et al. 2015), where maps are strong (Zagoruyko and
Komodakis 2017) or which samples have similar ones (Tung and Mori 2019)."""


@dataclass(frozen=True)
class Training:
    """How long and how hard to train.

    SGD with Nesterov momentum, or Adam (Kingma 2015, decay as in AdamW, Loshchilov 2019) where parameters differ in
    scale, as folded weights and steps do. `schedule` is the learning rate's course: it rises over the first tenth and
    falls to zero as a `cosine` (Loshchilov 2017), or goes through `one_cycle` while the momentum goes the other way
    (Smith 2018). A `learning_rate` of 0 is chosen by itself (see optimizer.py). A step's gradient is at most `clip`
    long, and as long as it is where `clip` is 0.

    `distillation` is the share of the loss that comes from the teacher's outputs, compared as `outputs` says (see
    outputs.py). `label_smoothing` is the share of a label that all classes have alike (Szegedy 2016).

    With `features` the maps within both networks are compared too (see features.py), and `feature_weight` times their
    distance is added to the loss. `pairs` says where, each as "student.path=teacher.path"; without any, the ends of the
    networks' stages are paired (see pairs.py).

    With an `average` of, say, 0.99 the weights that come out are an exponential moving average over the steps (Polyak
    and Juditsky 1992), batch norm's statistics too. With a `patience` of n, `Task.score` judges the weights after each
    epoch: training stops after n epochs without a better score, and the best weights come out.

    With `mixed_precision` it computes in bfloat16 where the processor multiplies that (see precision.py); weights and
    steps stay float32.
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
    schedule: Schedule = "cosine"
    label_smoothing: float = 0.0
    average: float = 0.0
    patience: int = 0
    clip: float = 5.0
    features: Features = ""
    feature_weight: float = 1.0
    pairs: tuple[str, ...] = ()
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        choices = {"optimizer": Optimizer, "outputs": Outputs, "schedule": Schedule, "features": Features}
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                mend = f"choose from: {', '.join(each or 'an empty text' for each in get_args(allowed))}."
                raise RecipeError(f"{name} is {getattr(self, name)!r}.", mend=mend)
        for name in ("epochs", "patience"):
            _check_count(name, getattr(self, name))
        for name in ("learning_rate", "weight_decay", "clip", "feature_weight"):
            self._check_number(name, lambda value: 0 <= value < math.inf, "a number from 0 up")
        for name in ("momentum", "label_smoothing", "average"):
            self._check_number(name, lambda value: 0 <= value < 1, "a number from 0 to below 1")
        self._check_number("distillation", lambda value: 0 <= value <= 1, "the teacher's share, from 0 to 1")
        self._check_number("temperature", lambda value: 0 < value < math.inf, "a number above 0, such as 3")
        if not isinstance(self.mixed_precision, bool):
            raise RecipeError(f"mixed_precision is {self.mixed_precision!r}.", mend="write True or False.")
        _check_pairs(self.pairs, self.features)

    def _check_number(self, name: str, fits: Callable[[float], bool], wanted: str) -> None:
        value = getattr(self, name)
        if not (isinstance(value, int | float) and fits(value)):
            raise RecipeError(f"{name} is {value!r}.", mend=f"write {wanted}.")


def check_settings(epochs: int, learning_rate: float, *, example: float) -> None:
    """Raises RecipeError, which names the setting, where a step cannot train so; `example` is a rate that can be."""
    _check_count("epochs", epochs)
    if not (isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf):
        raise RecipeError(f"learning_rate is {learning_rate!r}.", mend=f"write a number above 0, such as {example}.")


def _check_pairs(pairs: tuple[str, ...], features: Features) -> None:
    if pairs and not features:
        raise RecipeError("pairs are given, but no features are compared.", mend="set features, to fitnet for example.")
    for pair in pairs:
        if not isinstance(pair, str) or pair.count("=") != 1 or not all(map(str.strip, pair.split("="))):
            raise RecipeError(
                f"a pair is {pair!r}.", mend='write "student.path=teacher.path", such as "layer1=layer1".'
            )


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 0:
        raise RecipeError(f"{name} is {value!r}.", mend="write a whole number from 0 up.")
