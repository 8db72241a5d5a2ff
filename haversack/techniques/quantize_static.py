"""Integer weights and activations, their ranges read off calibration inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor, fx

from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.fold import fold
from haversack.graph.observe import Observed, Ranges, observe
from haversack.graph.quantized import layers, points, tensor_of
from haversack.graph.trace import trace
from haversack.grid import Grid, symmetric
from haversack.model import Model
from haversack.progress import say
from haversack.recipe import Stage
from haversack.task import Task


@dataclass(frozen=True)
class QuantizeStatic:
    """int8 inference by calibration (Jacob et al. 2018; Krishnamoorthi 2018).

    Batch norm is folded first. Weights: symmetric, one step an output channel. Activations: one affine grid a value,
    `uint8` for x86 and `int8` for Arm; `ranges` sets how outliers are treated: `min_max`, `percentile` (99.999 %) or
    `mse`. Operations without an integer form stay float32 and are named. `weight_bits=7` is for x86 processors without
    VNNI, whose 16-bit sums of two products saturate at 8.
    """

    ranges: Ranges = "mse"
    activations: str = "uint8"
    weight_bits: int = 8

    stage: ClassVar[Stage] = Stage.NUMERICS

    def __post_init__(self) -> None:
        if self.ranges not in ("min_max", "percentile", "mse"):
            raise RecipeError(f"ranges is '{self.ranges}'.", mend="write min_max, percentile or mse.")
        if self.activations not in ("uint8", "int8"):
            raise RecipeError(f"activations is '{self.activations}'.", mend="write uint8 (x86) or int8 (Arm).")
        if self.weight_bits not in (7, 8):
            raise RecipeError(f"weight_bits is {self.weight_bits}.", mend="write 8, or 7 for an x86 CPU without VNNI.")

    def apply(self, model: Model, task: Task) -> Model:
        """The model with a grid for every weight and value that has an integer form."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        network = fold(trace(model.module, model.example))
        values = points(network)
        if not values:
            raise NothingChangedError(
                "no operation of this network has an integer form.", mend="see `haversack weigh` for its operations."
            )
        seen = observe(network, values, task.calibration())
        _warn_of_constants(seen)
        grids = {name: each.grid(self.ranges, bits=8, signed=self.activations == "int8") for name, each in seen.items()}
        return replace(model, grids={**grids, **self._weight_grids(network, grids)})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Each way to set the ranges, where integers pay on the device."""
        if model.grids or "int8" not in device.number_formats:
            return ()
        activations = "int8" if device.signed_activations else "uint8"
        return tuple(cls(ranges, activations) for ranges in ("mse", "percentile", "min_max"))

    def _weight_grids(self, network: fx.GraphModule, values: dict[str, Grid]) -> dict[str, Grid]:
        grids = {}
        for layer, name in layers(network):
            weight = tensor_of(network, name)
            if not weight.isfinite().all():
                raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
            limits = weight.abs().flatten(1).amax(1)
            grids[name] = symmetric(_wide_enough(limits, layer, network, values), axis=0, bits=self.weight_bits)
        return grids


def _wide_enough(limits: Tensor, layer: fx.Node, network: fx.GraphModule, values: dict[str, Grid]) -> Tensor:
    """`limits`, raised where a channel of nearly zero weights would push its bias out of 32 bits."""
    bias = layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(bias, fx.Node):
        return limits
    step = min(grid.scale[0] for grid in values.values())
    needed = tensor_of(network, str(bias.target)).abs() / (step * 2**30) * 127
    return torch.maximum(limits, needed)


def _warn_of_constants(seen: dict[str, Observed]) -> None:
    constant = [name for name, each in seen.items() if each.low == each.high]
    if constant:
        say(f"constant on all calibration inputs: {', '.join(constant)}. Are the inputs typical?")
