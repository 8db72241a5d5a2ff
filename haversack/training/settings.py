"""Settings: how long and how hard to train, from whom, and the optimizer that follows from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import torch
from torch import nn

from haversack.errors import RecipeError, TrainingError
from haversack.settings import Amount, Count, Like, Portion, Positive, Share, checked
from haversack.training.teacher import Outputs

Optimizer = Literal["sgd", "adam"]
Features = Literal["", "fitnet", "attention", "similarity"]
"""What is compared inside the networks: nothing, maps (Romero et al. 2015), where maps are strong (Zagoruyko and
Komodakis 2017) or which samples have similar ones (Tung and Mori 2019)."""
Pairs = tuple[Annotated[str, Like(r"\s*[^=\s][^=]*=\s*[^=\s][^=]*", "student.path=teacher.path")], ...]
"""Where they are compared."""


@dataclass(frozen=True)
class Training:
    """How long and how hard to train.

    SGD with Nesterov momentum, or Adam (Kingma 2015, decay as in AdamW, Loshchilov 2019) where parameters differ in
    scale, as folded weights and steps do. The learning rate rises over the first tenth and falls to zero as a cosine
    (Loshchilov 2017); a `learning_rate` of 0 is chosen by itself (see `untuned_rate`). A step's gradient is at most
    `clip` long, and as long as it is where `clip` is 0.

    `distillation` is the share of the loss that comes from the teacher's outputs, compared as `outputs` says (see
    teacher.py). `label_smoothing` is the share of a label that all classes have alike (Szegedy 2016).

    With `features` the maps within both networks are compared too (see features.py), and `feature_weight` times their
    distance is added to the loss. `pairs` says where, each as "student.path=teacher.path"; without any, the ends of the
    networks' stages are paired (see pairs.py).

    With `mixed_precision` it computes in bfloat16 where the processor multiplies that (see machine.py); weights and
    steps stay float32.
    """

    epochs: Count = 2
    learning_rate: Amount = 0.05
    momentum: Portion = 0.9
    weight_decay: Amount = 1e-4
    distillation: Annotated[Share, "the teacher's share"] = 0.7
    temperature: Positive = 3.0
    seed: int = 0
    optimizer: Optimizer = "sgd"
    outputs: Outputs = "kd"
    label_smoothing: Portion = 0.0
    clip: Amount = 5.0
    features: Features = ""
    feature_weight: Amount = 1.0
    pairs: Pairs = ()
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        checked(self)
        if self.pairs and not self.features:
            raise RecipeError(
                "pairs are given, but no features are compared.", mend="set features, to fitnet for example."
            )


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
    """Sets the learning rate of a step on `samples`, after `share_done` of the training.

    A rate that was not set grows with the root of the batch (Malladi 2022), from batches of 128 up to one of 512.
    """
    share = _cosine(share_done)
    if not training.learning_rate:
        share *= math.sqrt(min(samples, 512) / 128)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * share


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


def _weight_groups(parameters: Iterable[nn.Parameter], decay: float) -> list[dict[str, object]]:
    """Kernels decay; biases and normalisation weights do not."""
    trained = [each for each in parameters if each.requires_grad]
    kernels, rest = [each for each in trained if each.dim() > 1], [each for each in trained if each.dim() <= 1]
    return [{"params": kernels, "weight_decay": decay}, {"params": rest, "weight_decay": 0.0}]
