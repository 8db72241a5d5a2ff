"""Fewer bits for the weights alone; activations stay real numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor

from haversack.calibration.closest import closest_in_groups
from haversack.calibration.ranges import Rounded, limits_of_least_error
from haversack.calibration.sweep import Sweep, swept_layers
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import Batches, is_finite
from haversack.graph.write_back import written_back
from haversack.grid import Grid, halved, symmetric
from haversack.model import Model
from haversack.progress import track
from haversack.recipe import Stage, Step
from haversack.settings import Count, checked
from haversack.task import Task

_LARGEST_HALF = torch.finfo(torch.float16).max
_RIDGE = 1e-2
_SHARES = tuple(share / 100 for share in range(100, 49, -2))


@dataclass(frozen=True)
class QuantizeWeights(Step):
    """Weights in 16 (float16), 8 or 4 bits, computed in float32: flash is saved, and no time.

    8 and 4 bits: symmetric grids, one step a group of `group` weights of an output channel, of an embedding's row or of
    a row of an LSTM's or GRU's gates (Dettmers 2022; 0 stands for all of it), each step the one of least squared error,
    and in groups one that float16 holds.
    No calibration data is needed, but for `rounding="gptq"`: then the integers of layers repair each other's errors on
    the calibration inputs (Frantar et al. 2022), which costs seconds a layer and at 4 bits loses far less.
    """

    bits: Annotated[Literal[16, 8, 4], "16 are float16"] = 8
    group: Annotated[Count, "the weights of a step at 8 or 4 bits"] = 0
    rounding: Literal["nearest", "gptq"] = "nearest"

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "bits"

    def __post_init__(self) -> None:
        checked(self)
        if self.group and self.bits == 16:
            raise RecipeError(f"group is {self.group} at bits 16.", mend="write 0, or bits 8 or 4.")
        if self.rounding != "nearest" and self.bits == 16:
            raise RecipeError(f"rounding is {self.rounding} at bits 16.", mend="write 'nearest', or bits 8 or 4.")

    def apply(self, model: Model, task: Task) -> Model:
        """The model whose weights need fewer bits."""
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="quantize the float network.")
        folded = inference(model)
        for name, tensor in folded.tensors.items():
            if not is_finite(tensor):
                raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
        if self.bits == 16:
            return _halved(model, folded)
        grids = self._grids(folded)
        if self.rounding == "nearest":
            return replace(model, grids=grids)
        found = self._repaired(folded, grids, task.calibration())
        return replace(written_back(model, folded, found.tensors), grids={**grids, **found.grids})

    def _grids(self, folded: Folded) -> dict[str, Grid]:
        names = _weights(folded)
        if not names:
            raise NothingChangedError("no layer of this network has weights.", mend="see `haversack weigh`.")
        return {name: self._grid(folded.tensor(name)) for name in names}

    @torch.no_grad()
    def _repaired(self, folded: Folded, plain: Mapping[str, Grid], batches: Batches) -> Rounded:
        """The weights of the layers, one after the other, with which the network stays closest to what it computes."""
        chosen = swept_layers(folded, plain)
        own = {layer.weight for layer in chosen}
        others = {name: grid for name, grid in plain.items() if name not in own}
        sweep = Sweep.over(folded, folded.lowered(others), batches, chosen)
        grids = dict[str, Grid]()
        for layer in track(chosen, "rounding layers", len(chosen)):
            fit, weight = sweep.fit(layer, ridge=_RIDGE), folded.tensor(layer.weight)
            columns = fit.best.shape[-1]
            size = self.group if self.group and columns % self.group == 0 else columns
            codes, steps = closest_in_groups(fit, self.bits, size)
            grid = grids[layer.weight] = self._with_steps(steps.reshape(-1))
            real = grid.dequantize(codes.reshape(len(grid.scale), -1).to(torch.int32))
            sweep.choose(layer, real.reshape(weight.shape), fit)
        return Rounded(sweep.tensors, grids)

    def _grid(self, weight: Tensor) -> Grid:
        """A step a group; channels that `group` does not divide keep one step each."""
        grouped = self.group and weight[0].numel() % self.group == 0
        rows = weight.reshape(-1, self.group) if grouped else weight.flatten(1)
        grid = symmetric(limits_of_least_error(rows, self.bits, _SHARES), axis=0, bits=self.bits)
        return self._with_steps(halved(torch.tensor(grid.scale))) if grouped else grid

    def _with_steps(self, steps: Tensor) -> Grid:
        grid = symmetric(torch.ones_like(steps), axis=0, bits=self.bits)
        return replace(grid, scale=tuple(steps.tolist()))

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """float16 where it pays, then 8 bits, then 4: in groups for ONNX Runtime, whose files alone can say them.

        Nothing for a runtime that takes no such weights.
        """
        if model.grids or not device.takes_weights_alone:
            return
        if "float16" in device.number_formats and not _is_halved(inference(model)):
            yield cls(16)
        yield from (cls(8), cls(4, 32 if device.takes_codebooks else 0))


def _halved(model: Model, folded: Folded) -> Model:
    """Weights, and biases without a batch norm, rounded to what float16 holds; files then store them so."""
    tensors = {name: folded.tensor(name) for name in folded.writable}
    real = {name: each for name, each in tensors.items() if each.dtype == torch.float32}
    for name, tensor in real.items():
        if float(tensor.abs().max()) > _LARGEST_HALF:
            raise RecipeError("a weight is larger than 65504, where float16 ends.", where=name, mend="write 8 bits.")
    if _is_halved(folded):
        raise NothingChangedError("the weights are float16 already.", mend="write 8 or 4 bits.")
    return written_back(model, folded, {name: tensor.half().float() for name, tensor in real.items()})


def _is_halved(folded: Folded) -> bool:
    weights = map(folded.tensor, _weights(folded))
    return all(torch.equal(weight.half().float(), weight) for weight in weights)


def _weights(folded: Folded) -> tuple[str, ...]:
    """The weights of layers and embeddings and the matrices of recurrent layers, each once."""
    single = (each.weight for found in (folded.lookups(), folded.layers()) for each in found)
    return tuple(dict.fromkeys((*single, *(name for layer in folded.recurrents() for name in layer.weights))))
