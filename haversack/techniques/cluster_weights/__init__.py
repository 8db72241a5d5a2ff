"""Weights that share few values: a codebook a tensor, stored as small indices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from torch import Tensor, nn
from torch.func import functional_call

from haversack.choices import Option, Site, Zeros
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import is_finite
from haversack.graph.write_back import written_back
from haversack.model import Model
from haversack.recipe import Stage, Step
from haversack.settings import Amount, AtLeast, AtMost, Count, Like, Positive, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, paths_of, spelled, weights_at
from haversack.techniques.cluster_weights.codebook import Clustering, entropy_constrained, halved, k_means
from haversack.training import Training, finetune

ValueBits = Annotated[int, AtLeast(1), AtMost(8), "files store 1 to 4 as 4, and 5 to 8 as 8"]

_FEWEST, _MOST = 2, 256
"""How many values a codebook of a file may have."""
_OFFERED = (32, 16, 8, 4)
"""Sizes of codebooks that a planner chooses from."""
_SHORT = 0.02
"""What a bit may cost in codebooks that a planner chooses, since it does so where coded files are limited."""


@dataclass(frozen=True)
class ClusterWeights(Step):
    """Each weight tensor keeps 2^`bits` different values (Han et al. 2016), which `epochs` of training then move.

    k-means chooses them tensor by tensor, after batch norm is folded; training sums the gradients of all weights that
    share a value, and moves the biases too. Zeros of pruned weights stay exactly zero, and zero is one of their values.
    `layer_bits` gives the bits layer by layer, in the order in which the network computes them, in place of `bits`.
    With `codebooks` ("fc1=8") only the layers that it names get few values, at most so many, and neither is looked at.
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
    codebooks: tuple[Annotated[str, Like(r"(?s:.+)=\d{1,3}", "fc1=8")], ...] = ()
    seed: int = 0

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "bits"

    def __post_init__(self) -> None:
        checked(self)
        for path, count in spelled(self.codebooks, "codebooks").items():
            if not _FEWEST <= int(count) <= _MOST:
                raise RecipeError(f"{path} shall have {count} values.", where="codebooks", mend="write 2 to 256.")

    def apply(self, model: Model, task: Task) -> Model:
        """The model with few different weights a tensor."""
        if model.grids:
            raise NothingChangedError("the weights lie on grids already.", mend="cluster the float network.")
        folded, sparse = inference(model), model.sparse
        weights = _weights(folded)
        counts = self._counts(folded, weights)
        found = {name: self._codebook(weights[name], few, keep_zero=name in sparse) for name, few in counts.items()}
        if not found:
            few = "so few values" if self.codebooks else f"2^{self.bits} values"
            raise NothingChangedError(
                f"no layer has weights that {few} would make smaller.", mend="write fewer bits, or fewer values."
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

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site a weight, with codebooks of ever fewer values; coded files are smaller by them, and ONNX's."""
        del device
        folded = inference(model)
        weights = {} if model.grids else {name: each for name, each in _weights(folded).items() if _is_large(each)}
        paths = paths_of(weights)

        def made(chosen: Sequence[int]) -> ClusterWeights | None:
            pairs = zip(paths.values(), chosen, strict=True)
            books = tuple(f"{path}={_OFFERED[option - 1]}" for path, option in pairs if option)
            return cls(epochs=0, entropy_weight=_SHORT, codebooks=books) if books else None

        def tried(index: int, _: object) -> list[Tensor]:
            name, weight = list(weights.items())[index]
            keep_zero = name in model.sparse
            found = (k_means(weight, count, keep_zero=keep_zero) for count in _OFFERED)
            return [entropy_constrained(weight, each, _SHORT).values for each in found]

        sites = tuple(_site(path) for path in paths.values())
        return LayerChoices(model, sites, tuple(weights), tried, made, normed=False) if sites else None

    def _counts(self, folded: Folded, weights: Mapping[str, Tensor]) -> dict[str, int]:
        """How many values each weight may have of those that get smaller by it."""
        if self.codebooks:
            said = spelled(self.codebooks, "codebooks")
            own = {name: int(said[path]) for name, path in weights_at(said, weights, "codebooks").items()}
            return {name: count for name, count in own.items() if len(weights[name].unique()) > count}
        bits = self._bits(tuple(dict.fromkeys(layer.weight for layer in folded.layers())))
        return {name: 2 ** bits[name] for name, weight in weights.items() if _is_worth_it(weight, bits[name])}

    def _bits(self, names: tuple[str, ...]) -> dict[str, int]:
        """The bits of each layer's weight."""
        if self.layer_bits and len(self.layer_bits) != len(names):
            raise RecipeError(
                f"layer_bits has {len(self.layer_bits)} numbers for {len(names)} layers.",
                mend=f"write one for each of {', '.join(names)}.",
            )
        return dict(zip(names, self.layer_bits or [self.bits] * len(names), strict=True))

    def _codebook(self, weight: Tensor, count: int, *, keep_zero: bool) -> Clustering:
        found = k_means(weight, count, keep_zero=keep_zero)
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


def _is_large(weight: Tensor) -> bool:
    """Whether a planner may choose its codebook: the weight has more values than the largest one, and more numbers."""
    return weight.numel() >= 4 * _OFFERED[0] and len(weight.unique()) > _OFFERED[0]


def _site(path: str) -> Site:
    books = (Option(f"{count} values", Zeros(path, 0.0, count)) for count in _OFFERED)
    return Site(path, "cluster_weights", (Option("all values"), *books))
