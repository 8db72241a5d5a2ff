"""Weights that share few values: a codebook a tensor, stored as small indices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor, fx, nn
from torch.func import functional_call

from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.finetune import Training, finetune
from haversack.graph.quantized import inference, layers, tensor_of
from haversack.graph.settle import settle, settleable
from haversack.model import Model
from haversack.numerics.codebook import Codebook, k_means
from haversack.recipe import Stage
from haversack.task import Task

# A tensor with this share of exact zeros was pruned: its zeros must stay zeros.
_PRUNED = 0.01


@dataclass(frozen=True)
class ClusterWeights:
    """Each weight tensor keeps 2^`bits` different values (Han et al. 2016), which `epochs` of training then move.

    k-means chooses them tensor by tensor, after batch norm is folded; training sums the gradients of all weights that
    share a value. Zeros of a pruned tensor stay exactly zero. ONNX files store the values once and an index of 4 or 8
    bits an element; the network computes in float32, so that this saves flash and no time.
    """

    bits: int = 4
    epochs: int = 1
    learning_rate: float = 0.001
    seed: int = 0

    stage: ClassVar[Stage] = Stage.NUMERICS

    def __post_init__(self) -> None:
        if self.bits not in range(1, 9):
            raise RecipeError(f"bits is {self.bits}.", mend="write 1 to 8; files store 1 to 4 as 4, 5 to 8 as 8.")
        if not isinstance(self.epochs, int) or self.epochs < 0:
            raise RecipeError(f"epochs is {self.epochs}.", mend="write a whole number from 0 up.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise RecipeError(f"learning_rate is {self.learning_rate}.", mend="write a number above 0, such as 0.001.")

    def apply(self, model: Model, task: Task) -> Model:
        """The model with few different weights a tensor."""
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="cluster the float network.")
        network = inference(model)
        weights = _weights(model, network, self.bits)
        if not weights:
            raise NothingChangedError(
                f"no layer has weights that 2^{self.bits} values would make smaller.", mend="write fewer bits."
            )
        found = {name: k_means(each, 2**self.bits, keep_zero=_is_pruned(each)) for name, each in weights.items()}
        if self.epochs:
            training = Training(self.epochs, self.learning_rate, weight_decay=0, seed=self.seed, optimizer="adam")
            shared = _Shared(network, found)
            trained = finetune(replace(model, module=shared, teacher=model.teacher or model.module), task, training)
            return settle(model, {name: tensor.detach() for name, tensor in trained.tensors().items()})  # type: ignore[operator]
        return settle(model, {name: codebook.values for name, codebook in found.items()})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8 and 4 bits where files can hold codebooks, so long as a tensor would change."""
        if model.grids or device.runtime != "onnx":
            return ()
        network = inference(model)
        if any(_is_clustered(tensor_of(network, name)) for _, name in layers(network)):
            return ()
        return tuple(cls(bits=bits) for bits in (8, 4) if _weights(model, network, bits))


class _Shared(nn.Module):
    """The folded network, each weight read from its codebook; the codebooks and the biases are what trains."""

    def __init__(self, network: fx.GraphModule, codebooks: Mapping[str, Codebook]) -> None:
        super().__init__()
        self.network = network
        self.places = {name: f"centroids{index}" for index, name in enumerate(codebooks)}
        for name, codebook in codebooks.items():
            place = self.places[name]
            self.register_parameter(place, nn.Parameter(codebook.centroids.clone()))
            self.register_buffer(f"{place}_indices", codebook.indices)
            self.register_buffer(f"{place}_free", codebook.centroids != 0)

    def tensors(self) -> dict[str, Tensor]:
        """The weights that the codebooks stand for; a zero stays zero."""
        return {name: self._tensor(place) for name, place in self.places.items()}

    def _tensor(self, place: str) -> Tensor:
        centroids = getattr(self, place) * getattr(self, f"{place}_free")
        tensor: Tensor = centroids[getattr(self, f"{place}_indices")]
        return tensor

    def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - what the network returns
        """The network's outputs."""
        return functional_call(self.network, self.tensors(), inputs)


def _weights(model: Model, network: fx.GraphModule, bits: int) -> dict[str, Tensor]:
    """The weights that a codebook makes smaller: not few, and of more different values than it has."""
    writable = settleable(model, network)
    weights = {name: tensor_of(network, name) for _, name in layers(network) if name in writable}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    return {name: w for name, w in weights.items() if w.numel() >= 8 * 2**bits and len(w.unique()) > 2**bits}


def _is_clustered(weight: Tensor) -> bool:
    return len(weight.unique()) <= min(256, weight.numel() // 8)


def _is_pruned(weight: Tensor) -> bool:
    return float((weight == 0).float().mean()) >= _PRUNED
