"""Integer weights and activations, their ranges read off calibration inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, fx

from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.observe import Observed, Ranges, observe
from haversack.graph.quantized import inference, layers, left_float, points, read_by, tensor_of
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
    `mse`, whose outputs stay closest to float (ResNet-20 and -56: 30.3 and 30.1 dB, min_max 29.9 and 28.8, on 4,000
    images that calibrated nothing). Operations without an integer form stay float32 and are named. `weight_bits=7` is
    for x86 processors without VNNI, whose 16-bit sums of two products saturate at 8.
    """

    ranges: Ranges = "mse"
    activations: Literal["uint8", "int8"] = "uint8"
    weight_bits: int = 8

    stage: ClassVar[Stage] = Stage.NUMERICS

    def __post_init__(self) -> None:
        if self.ranges not in get_args(Ranges):
            raise RecipeError(f"ranges is '{self.ranges}'.", mend="write min_max, percentile or mse.")
        if self.activations not in ("uint8", "int8"):
            raise RecipeError(f"activations is '{self.activations}'.", mend="write uint8 (x86) or int8 (Arm).")
        if self.weight_bits not in (7, 8):
            raise RecipeError(f"weight_bits is {self.weight_bits}.", mend="write 8, or 7 for an x86 CPU without VNNI.")

    def apply(self, model: Model, task: Task) -> Model:
        """The model with a grid for every weight and value that has an integer form."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        network = inference(model)
        values = points(network)
        if not values:
            raise NothingChangedError(
                "no operation of this network has an integer form.", mend="see `haversack weigh` for its operations."
            )
        seen = observe(network, values, task.calibration(), counted=self.ranges != "min_max")
        grids = {name: each.grid(self.ranges, signed=self.activations == "int8") for name, each in seen.items()}
        weights = _weight_grids(network, grids, self.weight_bits)
        _tell(network, seen)
        return replace(model, grids={**grids, **weights})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """Each way to set the ranges, where integers pay on the device."""
        if model.grids or "int8" not in device.number_formats:
            return ()
        activations: Literal["uint8", "int8"] = "int8" if device.signed_activations else "uint8"
        orders: tuple[Ranges, ...] = ("mse", "percentile", "min_max")
        return tuple(cls(ranges, activations) for ranges in orders)


def _weight_grids(network: fx.GraphModule, values: Mapping[str, Grid], bits: int) -> dict[str, Grid]:
    """One grid a weight, with one step an output channel; layers that share a weight share it."""
    limits: dict[str, Tensor] = {}
    for layer, name in layers(network):
        weight = tensor_of(network, name)
        if not weight.isfinite().all():
            raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
        least = weight.abs().flatten(1).amax(1)
        wide = torch.maximum(least, _limits_for_bias(network, layer, values[read_by(layer)], bits))
        limits[name] = torch.maximum(limits.get(name, wide), wide)
    return {name: symmetric(limit, axis=0, bits=bits) for name, limit in limits.items()}


def _limits_for_bias(network: fx.GraphModule, layer: fx.Node, inputs: Grid, bits: int) -> Tensor:
    """The least weight limits with which the bias, in steps of input step x weight step, leaves 32 bits half free.

    A channel of nearly zero weights (batch norm switched it off) would otherwise lose its bias.
    """
    bias = layer.args[2] if len(layer.args) > 2 else None
    if not isinstance(bias, fx.Node):
        return torch.zeros(())
    largest = (1 << bits - 1) - 1
    return tensor_of(network, str(bias.target)).abs() / (inputs.scale[0] * 2**30) * largest


def _tell(network: fx.GraphModule, seen: Mapping[str, Observed]) -> None:
    constant = [name for name, each in seen.items() if each.is_constant]
    if constant:
        say(f"constant on all calibration inputs: {', '.join(constant)}. Are the inputs typical?")
    floats = Counter(left_float(network))
    if floats:
        say(f"these stay float32: {', '.join(f'{count} {name}' for name, count in floats.items())}.")
