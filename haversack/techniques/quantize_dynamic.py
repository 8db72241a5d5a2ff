"""Integer weights; activations are rounded as they come, each by its own range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from torch import Tensor

from haversack.calibration.dynamic import dynamic_grids, linear_layers, row_grid, step_grid
from haversack.calibration.ranges import recurrent_grids
from haversack.calibration.rewrite import leaving_float, tell_matrices
from haversack.choices import Bits as BitsOf
from haversack.choices import Option, Site
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import FoldedLayer, Trait, traits_of
from haversack.graph.run import Batches, numbers_of
from haversack.grid import DYNAMIC
from haversack.model import Model
from haversack.progress import note
from haversack.recipe import Stage, Step
from haversack.settings import Bits, Like, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, paths_of, spelled, weights_at

_FEWER = 4
"""Bits of weights that a planner chooses beside 8: plain files store two such a byte."""


@dataclass(frozen=True)
class QuantizeDynamic(Step):
    """Integer products whose inputs are rounded at run time: what a text encoder stands that static ranges ruin.

    Linear layers, and products by constants: symmetric grids of `weight_bits`, one step an output channel, each the one
    of least squared error; what they read is rounded to the 256 integers that span it and zero: batch by batch in ONNX
    Runtime, row by row in LiteRT, which is finer.
    Embeddings: `embedding_bits`, one step a row; where a layer has the same weight, that one's grid. Steps are few
    numbers, or those that float16 holds. No calibration data is needed. An LSTM is a layer whose inputs and state
    are rounded so, and so is each recurrent layer in LiteRT; in ONNX Runtime others compute on real numbers, and their
    matrices are stored in 8 bits, one step a row. Convolutions stay float, and so do the layers, embeddings and modules
    that `leave_float` names ("embedding", "layers.0"). `layer_bits` ("embedding=4") makes exceptions of layers and
    embeddings, or of all in a module, by their path. `weight_bits=7` is for x86 processors without VNNI, whose 16-bit
    sums of two products saturate at 8.
    """

    weight_bits: Bits = 8
    embedding_bits: Bits = 8
    leave_float: tuple[Annotated[str, Like("(?s:.+)", "layer1.0.linear")], ...] = ()
    layer_bits: tuple[Annotated[str, Like("(?s:.+)=[2-8]", "embedding=4")], ...] = ()

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "weight_bits"

    def __post_init__(self) -> None:
        checked(self)
        both = sorted(set(self.leave_float) & spelled(self.layer_bits, "layer_bits").keys())
        if both:
            said = f"{', '.join(both)} shall stay float and have bits."
            raise RecipeError(said, mend="drop it from leave_float or layer_bits.")

    def apply(self, model: Model, task: Task) -> Model:  # noqa: ARG002 - a step's signature
        """The model with a grid for each weight of a layer or an embedding, and for what such layers read."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        scope = leaving_float(inference(model), self.leave_float)
        layers = linear_layers(scope)
        grids = dynamic_grids(scope, self._bits(scope, layers))
        integer = [layer for layer in scope.recurrents() if layer.computes_integers]
        matrices = recurrent_grids(scope)
        reduced = {name for layer in integer for name in layer.weights}
        grids |= matrices | {name: step_grid(scope, name, 0, self.weight_bits) for name in reduced}
        if not grids:
            raise NothingChangedError(
                "no linear or recurrent layer and no embedding is left to quantize.",
                mend="see `haversack weigh` for its layers.",
            )
        _tell(scope)
        tell_matrices(matrices.keys() - reduced, ", but for LiteRT")
        read = dict.fromkeys((layer.reads for layer in scope.recurrents()), DYNAMIC)
        return replace(model, grids={**read, **grids})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8 bits, or as many as the kernels compute exactly with, where a runtime has such layers and integers pay."""
        if model.grids or not device.rounds_as_it_comes or "int8" not in device.number_formats:
            return
        folded = inference(model)
        if linear_layers(folded) or any(folded.lookups()) or any(folded.recurrents()):
            yield cls(device.weight_bits)

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site for the weight of each linear layer and embedding: as many bits as the kernels take, or 4.

        The step gives all weights the former where nothing else is chosen. None where integers do not pay, where
        convolutions multiply more than linear layers do, and for recurrent layers.
        """
        plain = next(iter(cls.options(model, device)), None)
        folded = inference(model)
        if plain is None or any(folded.recurrents()) or not _is_mostly_linear(folded):
            return None
        layers = {layer.weight: layer for layer in linear_layers(folded)}
        names = list(dict.fromkeys((*(lookup.weight for lookup in folded.lookups()), *layers)))
        paths = list(paths_of(names).values())

        def tried(index: int, _: Batches) -> list[Tensor]:
            name = names[index]
            layer = layers.get(name)
            grid = row_grid(folded, name, _FEWER) if layer is None else step_grid(folded, name, layer.axis, _FEWER)
            return [grid.round(folded.tensor(name).detach())]

        def made(chosen: Sequence[int]) -> QuantizeDynamic:
            fewer = [path for path, option in zip(paths, chosen, strict=True) if option]
            return replace(plain, layer_bits=tuple(f"{path}={_FEWER}" for path in fewer))

        most = [plain.weight_bits if name in layers else plain.embedding_bits for name in names]
        sites = tuple(map(_site, paths, most))
        return LayerChoices(model, sites, tuple(names), tried, made, normed=None)

    def _bits(self, scope: Folded, layers: Sequence[FoldedLayer]) -> Mapping[str, int]:
        """The bits of each weight; one that a layer shares with an embedding has the layer's."""
        bits = dict.fromkeys((lookup.weight for lookup in scope.lookups()), self.embedding_bits)
        bits |= dict.fromkeys((layer.weight for layer in layers), self.weight_bits)
        said = spelled(self.layer_bits, "layer_bits")
        return bits | {name: int(said[path]) for name, path in weights_at(said, bits, "layer_bits").items()}


def _site(path: str, most: int) -> Site:
    options = tuple(Option(f"{bits} bits", BitsOf(path, bits)) for bits in (most, _FEWER))
    return Site(path, "quantize_dynamic", options)


def _is_mostly_linear(folded: Folded) -> bool:
    """Whether linear layers and products make most of the multiply-accumulates of all layers, on one sample.

    Sizes that are free are not counted: whoever asks for their number fixes them.
    """

    def macs(layer: FoldedLayer) -> int:
        weight = folded.tensor(layer.weight)
        return numbers_of(layer.node) * weight.numel() // weight.shape[layer.axis]

    linear = {layer.weight for layer in linear_layers(folded)}
    others = [layer for layer in folded.layers(transposed=True) if layer.weight not in linear]
    return sum(map(macs, linear_layers(folded))) > sum(map(macs, others))


def _tell(folded: Folded) -> None:
    """Says which layers with weights stay float."""
    kinds = Counter(
        str(layer.node.target) for layer in folded.layers(transposed=True) if not traits_of(layer.node) & Trait.LINEAR
    )
    if kinds:
        note(f"these stay float32: {', '.join(f'{count} {name}' for name, count in kinds.items())}.")
