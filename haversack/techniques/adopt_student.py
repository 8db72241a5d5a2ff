"""A compact network takes the place of the user's, and learns from it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor, nn

from haversack import zoo
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.model import Edits, Layer, Model, Swap
from haversack.recipe import Stage, Step
from haversack.settings import Amount, AtLeast, Count, Positive, Share, checked
from haversack.task import Task
from haversack.training import Training, finetune
from haversack.training.machine import seeded
from haversack.wiring import free_axes

_WIDTHS = (0.5, 0.25)


@dataclass(frozen=True)
class Interface:
    """What a network takes and gives: a student that stands in its place takes and gives the same."""

    channels: int
    extent: tuple[int, ...]
    """Height and width, or the points in time."""
    outputs: int


@dataclass(frozen=True)
class AdoptStudent(Step):
    """A network of the zoo instead of the user's, taught by it from the first step on.

    `family` is a file of the zoo; `width`, `depth`, `downsampling` and `shrink` are its sizes (see zoo.Family). The
    student starts from random weights drawn from `seed` and learns for `epochs` with SGD: `distillation` is the
    teacher's share of the loss, compared by DIST (Huang et al. 2022) at temperature 4; labels have the rest. A
    `learning_rate` of 0 follows from the size of the batches.

    A student needs tens of epochs where a repair needs two. `haversack pack --student` chooses all settings by itself.
    """

    family: str = "mobilenet_v2"
    width: Positive = 1.0
    depth: Positive = 1.0
    downsampling: Annotated[int, AtLeast(1)] = 32
    shrink: Annotated[int, AtLeast(1)] = 1
    epochs: Count = 60
    learning_rate: Annotated[Amount, "which chooses one by itself"] = 0.0
    distillation: Annotated[Share, "the teacher's share"] = 0.67
    seed: int = 0

    stage: ClassVar[Stage] = Stage.DESIGN
    strength: ClassVar[str] = "width"

    def __post_init__(self) -> None:
        checked(self)
        zoo.family(self.family)

    def apply(self, model: Model, task: Task) -> Model:
        """The student, trained; the teacher stays the network that the user handed in.

        Raises RecipeError where no network of the zoo can stand in the model's place, or not one of these sizes;
        NothingChangedError where the model is quantized already.
        """
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="adopt a student of the float network.")
        taken = interface(model)
        with seeded(self.seed), torch.no_grad():
            network = self.network(taken).eval().to(model.example[0].device)
            network(*model.example)
        kind = f"{self.family}.{type(network).__name__}"
        edits = Edits((Swap("", (Layer(kind, self._sizes(taken)),)),))
        fresh = replace(model.with_module(network, edits), teacher=model.teacher or model.module)
        return replace(fresh, module=finetune(fresh, task, self._training())) if self.epochs else fresh

    def network(self, taken: Interface) -> nn.Module:
        """The student without training, its weights from torch's generator (none at all on the meta device)."""
        self.check_family(taken)
        return zoo.family(self.family)(**self._sizes(taken))  # type: ignore[arg-type]

    def check_family(self, taken: Interface) -> None:
        """Raises RecipeError, naming those that do, where the family does not read inputs of so many dimensions."""
        dimensions = zoo.family(self.family).dimensions
        if dimensions != len(taken.extent):
            fitting = families(taken)
            raise RecipeError(
                f"{self.family} reads inputs of {dimensions} dimensions, and these have {len(taken.extent)}.",
                mend=f"choose from {', '.join(fitting)}." if fitting else "no family of the zoo reads such inputs.",
            )

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:  # noqa: ARG003 - any device can run them
        """Members of every family that have fewer parameters than the model, widest first."""
        if model.grids:
            return
        try:
            taken = interface(model)
        except RecipeError:
            return
        most, downsampling = _parameters(model.module), zoo.downsampling(min(taken.extent))
        for width in _WIDTHS:
            for name in families(taken):
                step = cls(name, width, downsampling=downsampling)
                if step._parameters(taken) < most:
                    yield step

    def _parameters(self, taken: Interface) -> float:
        """How many the student has; infinitely many where it cannot be built."""
        try:
            with torch.device("meta"):
                return _parameters(self.network(taken))
        except RecipeError:
            return math.inf

    def _sizes(self, taken: Interface) -> dict[str, int | float]:
        names = ("width", "depth", "downsampling", "shrink")
        sizes = {name: getattr(self, name) for name in names}
        return {"channels": taken.channels, "outputs": taken.outputs, **sizes}

    def _training(self) -> Training:
        return Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            distillation=self.distillation,
            temperature=4.0,
            outputs="dist",
            seed=self.seed,
        )


def interface(model: Model) -> Interface:
    """What the model takes and gives. Raises RecipeError where that is no image or series in, or no class scores out.

    Reads the model's example: one input (1, channels, height, width) or (1, channels, time), outputs (1, classes).
    """
    if len(model.example) != 1:
        raise _unfit(f"the network takes {len(model.example)} inputs, and students take one.")
    if free_axes(model.module):
        raise _unfit("its inputs have different lengths, and students take one. Pad them to one length.")
    shape = tuple(model.example[0].shape)
    if model.example[0].dtype == torch.uint8:
        raise _unfit("it takes bytes, and students take numbers. Leave out the task's `prepare`.")
    if len(shape) not in (3, 4) or not model.example[0].is_floating_point():
        raise _unfit(f"its input {shape} of {model.example[0].dtype} is neither an image nor a series.")
    with torch.no_grad():
        outputs: Tensor = model.module(*model.example)
    if outputs.dim() != 2:
        raise _unfit(f"its output {tuple(outputs.shape)} is not (samples, outputs).")
    return Interface(shape[1], shape[2:], outputs.shape[1])


def families(taken: Interface) -> tuple[str, ...]:
    """The families that read inputs of as many dimensions."""
    return tuple(name for name in zoo.names() if zoo.family(name).dimensions == len(taken.extent))


def _parameters(network: nn.Module) -> int:
    return sum(each.numel() for each in network.parameters())


def _unfit(what: str) -> RecipeError:
    return RecipeError(
        f"no student can stand in this network's place: {what}",
        mend="students read (samples, channels, height, width) or (samples, channels, time) and give (samples, n).",
    )
