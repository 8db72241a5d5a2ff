"""Integer weights; activations are rounded as they come, each by its own range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import torch
from torch import Tensor

from haversack.calibration.ranges import limits_of_least_error, recurrent_grids
from haversack.calibration.rewrite import leaving_float, tell_matrices
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import FoldedLayer, Trait, products, traits_of
from haversack.graph.run import is_finite
from haversack.grid import DYNAMIC, Grid, halved, symmetric
from haversack.model import Model
from haversack.progress import note
from haversack.recipe import Stage, Step
from haversack.settings import Bits, Like, checked
from haversack.task import Task

_SHARES = tuple(share / 100 for share in range(100, 79, -2))
_STEPS_AN_OCTAVE, _MOST_STEPS = 32, 256


@dataclass(frozen=True)
class QuantizeDynamic(Step):
    """Integer products whose inputs are rounded at run time: what a text encoder stands that static ranges ruin.

    Linear layers, and products by constants: symmetric grids of `weight_bits`, one step an output channel, each the one
    of least squared error; what they read is rounded to the 256 integers that span it and zero, batch by batch.
    Embeddings: `embedding_bits`, one step a row; where a layer has the same weight, that one's grid. Steps are few
    numbers, or those that float16 holds. No calibration data is needed. An LSTM is a layer whose inputs and state
    are rounded so; other recurrent layers compute on real numbers, and their matrices are stored in 8 bits, one step a
    row. Convolutions stay float, and so do the layers, embeddings and modules
    that `leave_float` names ("embedding", "layers.0"). `weight_bits=7` is for x86 processors without VNNI, whose 16-bit
    sums of two products saturate at 8.
    """

    weight_bits: Bits = 8
    embedding_bits: Bits = 8
    leave_float: tuple[Annotated[str, Like("(?s:.+)", "layer1.0.linear")], ...] = ()

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "weight_bits"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:  # noqa: ARG002 - a step's signature
        """The model with a grid for each weight of a layer or an embedding, and for what such layers read."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        scope = leaving_float(inference(model), self.leave_float)
        layers = _layers(scope)
        rows = {lookup.weight: self.embedding_bits for lookup in scope.lookups()}
        grids = {name: _grid(scope, name, 0, bits, _few) for name, bits in rows.items()}
        grids |= {layer.weight: _grid(scope, layer.weight, layer.axis, self.weight_bits, halved) for layer in layers}
        integer = [layer for layer in scope.recurrents() if layer.computes_integers]
        matrices = recurrent_grids(scope)
        reduced = {name for layer in integer for name in layer.weights}
        grids |= matrices | {name: _grid(scope, name, 0, self.weight_bits, halved) for name in reduced}
        if not grids:
            raise NothingChangedError(
                "no linear or recurrent layer and no embedding is left to quantize.",
                mend="see `haversack weigh` for its layers.",
            )
        _tell(scope)
        tell_matrices(matrices.keys() - reduced)
        read = [*(layer.reads for layer in layers), *(layer.reads for layer in integer)]
        return replace(model, grids={**dict.fromkeys(read, DYNAMIC), **grids})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8 bits, or as many as the kernels compute exactly with, for ONNX Runtime, where integers pay."""
        if model.grids or device.runtime != "onnx" or "int8" not in device.number_formats:
            return
        folded = inference(model)
        if _layers(folded) or any(folded.lookups()) or any(folded.recurrents()):
            yield cls(device.weight_bits)


def _layers(folded: Folded) -> tuple[FoldedLayer, ...]:
    """What multiplies rows by a weight."""
    linear = (layer for layer in folded.layers() if traits_of(layer.node) & Trait.LINEAR)
    return (*linear, *products(folded.graph))


def _grid(folded: Folded, name: str, axis: int, bits: int, short: Callable[[Tensor], Tensor]) -> Grid:
    """One step a slice along `axis`, made `short` for files."""
    weight = folded.tensor(name)
    if not is_finite(weight):
        raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    limits = limits_of_least_error(weight.detach().transpose(0, axis).flatten(1), bits, _SHARES)
    grid = symmetric(limits, axis=axis, bits=bits)
    return replace(grid, scale=tuple(short(torch.tensor(grid.scale)).tolist()))


def _few(steps: Tensor) -> Tensor:
    """The nearest of so few numbers that a byte tells which: some per cent apart from one another."""
    places = (steps.log2() * _STEPS_AN_OCTAVE).round()
    return (places / _STEPS_AN_OCTAVE).exp2() if places.max() - places.min() < _MOST_STEPS else halved(steps)


def _tell(folded: Folded) -> None:
    """Says which layers with weights stay float."""
    kinds = Counter(
        str(layer.node.target) for layer in folded.layers(transposed=True) if not traits_of(layer.node) & Trait.LINEAR
    )
    if kinds:
        note(f"these stay float32: {', '.join(f'{count} {name}' for name, count in kinds.items())}.")
