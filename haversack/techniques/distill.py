"""Training that wins back what the steps before it lost: the original network teaches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from torch import nn

from haversack.device import Device
from haversack.errors import NothingChangedError
from haversack.model import Model
from haversack.recipe import Stage, Step
from haversack.settings import Amount, Count, Positive, Share, checked
from haversack.task import Task
from haversack.training import Training, finetune
from haversack.training.settings import Features, Optimizer, Pairs
from haversack.training.teacher import Outputs

_ADAM_RATE = 3e-4


@dataclass(frozen=True)
class Distill(Step):
    """The network after `epochs` of learning from the original's outputs, and from labels where there are any.

    `distillation` is the teacher's share of the loss; data without labels are learned from by the teacher's word alone.
    Class scores are compared as `outputs` says, at a `temperature` (see training/teacher.py); other outputs, and those
    of reconstruction, by their squared difference. A `learning_rate` of 0 is chosen by itself.
    Networks with attention learn by `adam`, at rates around 3e-4 (Zhang et al. 2020 show why SGD is slow on them).

    With `features` maps within the networks are compared too: by `fitnet` regressors (Romero et al. 2015), by where
    they are strong (`attention`, Zagoruyko and Komodakis 2017) or by which samples have like ones (`similarity`, Tung
    and Mori 2019), and `feature_weight` times their distance is added to the loss. The ends of the networks' stages
    are paired, which is said, unless `pairs` has pairs such as "layer1=features.3": the student's path, and the
    teacher's.

    Zeros and structure stay as they are. A network that has no teacher is its own, and changes by the labels alone.
    """

    epochs: Count = 5
    learning_rate: Annotated[Amount, "0 chooses one by itself"] = 0.02
    distillation: Annotated[Share, "the teacher's share"] = 0.7
    temperature: Positive = 4.0
    outputs: Outputs = "dist"
    features: Features = ""
    feature_weight: Amount = 1.0
    pairs: Pairs = ()
    seed: int = 0
    optimizer: Optimizer = "sgd"

    stage: ClassVar[Stage] = Stage.RECOVER
    strength: ClassVar[str] = "epochs"

    def __post_init__(self) -> None:
        checked(self)
        self._training()

    def apply(self, model: Model, task: Task) -> Model:
        """The trained model; structure, zeros and teacher are its own.

        Raises RecipeError where features are asked for and no layers of the two networks can be paired.
        """
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="distill the float network.")
        if not self.epochs:
            raise NothingChangedError("without epochs nothing is learned.", mend="write epochs from 1 up.")
        student = replace(model, teacher=model.teacher or model.module)
        return student.with_module(finetune(student, task, self._training()))

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:  # noqa: ARG003 - training helps on any device
        """Short and long trainings."""
        yield from () if model.grids else (cls(epochs) for epochs in (2, 5, 10))

    @classmethod
    def suiting(cls, network: nn.Module, epochs: int, seed: int = 0) -> Self:
        """The training of a network as it came: by Adam where each sample is normalized by itself."""
        if any(isinstance(each, nn.LayerNorm | nn.RMSNorm) for each in network.modules()):
            return cls(epochs, _ADAM_RATE, seed=seed, optimizer="adam")
        return cls(epochs, seed=seed)

    def _training(self) -> Training:
        return Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            distillation=self.distillation,
            temperature=self.temperature,
            outputs=self.outputs,
            features=self.features,
            feature_weight=self.feature_weight,
            pairs=self.pairs,
            seed=self.seed,
            optimizer=self.optimizer,
        )
