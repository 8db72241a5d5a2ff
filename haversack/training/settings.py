"""Settings: how long and how hard to train, from whom, and the optimizer that follows from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import torch
from torch import nn

from haversack.errors import RecipeError, TrainingError
from haversack.training.teacher import Outputs

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


_CYCLE = 0.1
"""How far the momentum goes down while the learning rate goes up in one cycle, as Smith (2018) has it: 0.95 to 0.85."""


def optimizer(network: nn.Module, training: Training, beside: nn.Module | None = None) -> torch.optim.Optimizer:
    """The optimizer of the parameters of `network` and of what learns `beside` it.

    Raises TrainingError where there are none of the network to train.
    """
    if not any(each.requires_grad for each in network.parameters()):
        raise TrainingError(
            "no parameter of the network requires a gradient.", mend="call network.requires_grad_(True) in network()."
        )
    parameters = chain(network.parameters(), () if beside is None else beside.parameters())
    groups = _weight_groups(parameters, training.weight_decay)
    highest = training.learning_rate or untuned_rate(network, training.optimizer)
    groups = [{**group, "initial_lr": highest} for group in groups]
    if training.optimizer == "adam":
        return torch.optim.AdamW(groups, lr=highest, betas=(training.momentum, 0.999))
    momentum = training.momentum
    return torch.optim.SGD(groups, lr=highest, momentum=momentum, nesterov=momentum > 0)


def set_rate(optimizer: torch.optim.Optimizer, training: Training, share_done: float, samples: int) -> None:
    """Sets the learning rate and the momentum of a step on `samples`, after `share_done` of the training.

    A rate that was not set grows with the root of the batch (Malladi 2022), from batches of 128 up to one of 512.
    """
    cosine = training.schedule == "cosine"
    share, momentum = _cosine(share_done) if cosine else _one_cycle(share_done), training.momentum
    if not cosine:
        momentum = max(0.0, momentum - _CYCLE * share)
    if not training.learning_rate:
        share *= math.sqrt(min(samples, 512) / 128)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share
        if "momentum" in group:
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, group["betas"][1])


def untuned_rate(network: nn.Module, kind: str) -> float:
    """A highest learning rate for batches of 128 that needs no tuning. SGD goes gently with a network that is trained.

    One epoch of recovery left a pruned ResNet-20 2 points lower with 0.05 than with 0.025, and 7 points lower with 0.1,
    which suits fresh weights.
    """
    if kind == "adam":
        return 4e-3
    return 0.1 if _is_fresh(network) else 0.025


def _is_fresh(network: nn.Module) -> bool:
    """Whether no normalisation has learned a shift yet. Without any normalisation, steps are better small too."""
    named = dict(network.named_parameters())
    norms = [path.removesuffix("weight") for path, each in named.items() if path.endswith("weight") and each.dim() == 1]
    shifts = [named[f"{path}bias"] for path in norms if f"{path}bias" in named]
    return bool(shifts) and not any(each.any() for each in shifts)


def _cosine(share_done: float) -> float:
    """The learning rate, of its highest: it rises over the first tenth and falls as a cosine (Loshchilov 2017)."""
    warm_up = 0.1
    if share_done < warm_up:
        return (share_done + 0.01) / (warm_up + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (share_done - warm_up) / (1 - warm_up)))


def _one_cycle(share_done: float) -> float:
    """From a 25th up to the highest over the first 30 %, and down to nothing, along half waves (Smith 2018)."""
    lowest, up = 1 / 25, 0.3
    if share_done < up:
        return lowest + (1 - lowest) * 0.5 * (1 - math.cos(math.pi * share_done / up))
    return 0.5 * (1 + math.cos(math.pi * (share_done - up) / (1 - up)))


def _weight_groups(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, object]]:
    """Kernels decay; biases and normalisation weights do not."""
    trained = [each for each in parameters if each.requires_grad]
    kernels, rest = [each for each in trained if each.dim() > 1], [each for each in trained if each.dim() <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
