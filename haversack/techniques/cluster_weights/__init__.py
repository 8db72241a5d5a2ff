"""Weights that share few values: a codebook a tensor, stored as small indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from torch import Tensor, nn
from torch.func import functional_call

from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import is_finite
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.recipe import Stage, Step
from haversack.settings import Amount, AtLeast, AtMost, Count, Positive, checked
from haversack.task import Task
from haversack.techniques.cluster_weights.codebook import Clustering, entropy_constrained, halved, k_means
from haversack.training import Training, finetune

ValueBits = Annotated[int, AtLeast(1), AtMost(8), "files store 1 to 4 as 4, and 5 to 8 as 8"]


@dataclass(frozen=True)
class ClusterWeights(Step):
    """Each weight tensor keeps 2^`bits` different values (Han et al. 2016), which `epochs` of training then move.

    k-means chooses them tensor by tensor, after batch norm is folded; training sums the gradients of all weights that
    share a value, and moves the biases too. Zeros of pruned weights stay exactly zero, and zero is one of their values.
    `layer_bits` gives the bits layer by layer, in the order in which the network computes them, in place of `bits`.
    `entropy_weight` is what a bit may cost, as a share of a weight's mean square, in a file whose coder makes frequent
    values short (Choi et al. 2017): weights then move to more frequent values, often to zero.

    Values, and biases without a batch norm behind them, are numbers that float16 holds, for files that store them so.
    ONNX files store the values once and an index of 4 or 8 bits an element; the network computes in float32, so that
    this saves flash and no time.
    """

    bits: ValueBits = 4
    epochs: Count = 1
    learning_rate: Positive = 0.001
    entropy_weight: Annotated[Amount, "or 0.02"] = 0.0
    layer_bits: tuple[ValueBits, ...] = ()
    seed: int = 0

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "bits"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:
        """The model with few different weights a tensor."""
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="cluster the float network.")
        folded, sparse = inference(model), model.sparse
        weights = _weights(folded)
        bits = self._bits(tuple(dict.fromkeys(layer.weight for layer in folded.layers())))
        worth_it = {name: weight for name, weight in weights.items() if _is_worth_it(weight, bits[name])}
        found = {name: self._codebook(each, bits[name], keep_zero=name in sparse) for name, each in worth_it.items()}
        if not found:
            raise NothingChangedError(
                f"no layer has weights that 2^{self.bits} values would make smaller.", mend="write fewer bits."
            )
        shared = _Shared(folded, found, _biases(folded))
        if self.epochs:
            training = Training(self.epochs, self.learning_rate, weight_decay=0, seed=self.seed, optimizer="adam")
            student = replace(model, module=shared, sparse=frozenset(), teacher=model.teacher or model.module)
            shared = finetune(student, task, training)  # type: ignore[assignment]
        batches = task.calibration() if task.calibrate else None
        return written_back(model, folded, shared.halved(), batches)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8 and 4 bits where files can hold codebooks, so long as a tensor would change."""
        if model.grids or not device.takes_codebooks:
            return
        folded = inference(model)
        if any(_is_clustered(folded.tensor(layer.weight)) for layer in folded.layers()):
            return
        weights = _weights(folded).values()
        yield from (cls(bits=bits) for bits in (8, 4) if any(_is_worth_it(weight, bits) for weight in weights))

    def _bits(self, names: tuple[str, ...]) -> dict[str, int]:
        """The bits of each layer's weight."""
        if self.layer_bits and len(self.layer_bits) != len(names):
            raise RecipeError(
                f"layer_bits has {len(self.layer_bits)} numbers for {len(names)} layers.",
                mend=f"write one for each of {', '.join(names)}.",
            )
        return dict(zip(names, self.layer_bits or [self.bits] * len(names), strict=True))

    def _codebook(self, weight: Tensor, bits: int, *, keep_zero: bool) -> Clustering:
        found = k_means(weight, 2**bits, keep_zero=keep_zero)
        return entropy_constrained(weight, found, self.entropy_weight) if self.entropy_weight else found


class _Shared(nn.Module):
    """The folded network, each weight read from its codebook; the codebooks and the biases are what trains."""

    def __init__(self, folded: Folded, codebooks: Mapping[str, Clustering], biases: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network = folded.module
        self.places = {name: f"values{index}" for index, name in enumerate((*codebooks, *biases))}
        for name, values in {**{name: book.centroids for name, book in codebooks.items()}, **biases}.items():
            self.register_parameter(self.places[name], nn.Parameter(values.clone()))
        for name, codebook in codebooks.items():
            self.register_buffer(f"{self.places[name]}_indices", codebook.indices)
            self.register_buffer(f"{self.places[name]}_free", codebook.centroids != 0)

    def halved(self) -> dict[str, Tensor]:
        """The weights and biases, of numbers that float16 holds."""
        return {name: self._tensor(place, halved(getattr(self, place).detach())) for name, place in self.places.items()}

    def _tensor(self, place: str, values: Tensor) -> Tensor:
        """What `values` stand for; a zero of a codebook stays zero."""
        if not hasattr(self, f"{place}_indices"):
            return values
        tensor: Tensor = (values * getattr(self, f"{place}_free"))[getattr(self, f"{place}_indices")]
        return tensor

    def forward(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - what the network returns
        """The network's outputs."""
        tensors = {name: self._tensor(place, getattr(self, place)) for name, place in self.places.items()}
        return functional_call(self.network, tensors, inputs)


def _biases(folded: Folded) -> dict[str, Tensor]:
    """The biases of layers that can be written back."""
    return {layer.bias: folded.tensor(layer.bias) for layer in folded.layers() if layer.bias in folded.writable}


def _weights(folded: Folded) -> dict[str, Tensor]:
    """The weights of layers that can be written back."""
    names = (layer.weight for layer in folded.layers())
    weights = {name: folded.tensor(name) for name in names if name in folded.writable}
    for name, weight in weights.items():
        if not is_finite(weight):
            raise RecipeError("the weights hold NaN or infinity.", where=name, mend="train the network again.")
    return weights


def _is_worth_it(weight: Tensor, bits: int) -> bool:
    """Whether a codebook makes a weight smaller: it is not small, and has more different values than that."""
    return len(weight.unique()) > 1 << bits and weight.numel() >= 8 << bits


def _is_clustered(weight: Tensor) -> bool:
    return len(weight.unique()) <= min(256, weight.numel() // 8)
