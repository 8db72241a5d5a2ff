"""Integer weights and activations, their ranges read off calibration inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from torch import Tensor

from haversack.calibration.ranges import (
    Activations,
    Observed,
    Ranges,
    Rounded,
    observe,
    recurrent_grids,
    table_grids,
    value_grids,
    weight_grids,
)
from haversack.calibration.rewrite import bits_by_weight, leaving_float, tell_matrices
from haversack.device import Device
from haversack.errors import NothingChangedError, RecipeError, TaskError
from haversack.graph.bytes import in_steps
from haversack.graph.distributions import Noted
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import left_float, points
from haversack.graph.run import Batches, watch
from haversack.graph.write_back import written_back
from haversack.grid import Grid
from haversack.model import Model
from haversack.progress import note
from haversack.recipe import Stage, Step
from haversack.settings import AtLeast, AtMost, Bits, Like, checked
from haversack.task import Task
from haversack.techniques._choices import LayerChoices, paths_of
from haversack.techniques.quantize_static.bias import corrected_biases
from haversack.techniques.quantize_static.bits import OFFERED, bit_sites, in_fewer_bits, sensitivity, spent
from haversack.techniques.quantize_static.data_free import ranges_from_norms
from haversack.techniques.quantize_static.equalize import Equalized, equalize

Rounding = Literal["nearest", "gptq", "learned"]
_FEWEST_SAMPLES = 32


@dataclass(frozen=True)
class QuantizeStatic(Step):
    """Integer inference by calibration (Jacob et al. 2018; Krishnamoorthi 2018; Nagel et al. 2021).

    Batch norm is folded first. Weights: symmetric, one step an output channel. Embeddings: on the grid of what they
    give, or 8 bits with a step a row. Recurrent layers compute on real numbers; their matrices are stored in 8 bits
    with a step a row. Norms of each sample stay float, and so do the sums beside them and what stands between float
    operations without weights. Activations: one grid a value, affine `uint8` for x86 and `int8` for Arm, or symmetric
    `int16` (TFLite's 16x8); `ranges` sets how outliers are treated: `min_max`, `percentile` (99.999 %), or `mse`.

    `rounding` decides to which integers weights go: the `nearest`, those that repair each other's errors on the
    calibration inputs (`gptq`, seconds), or learned ones (`learned`, minutes); the fewer bits, the more it matters.
    `equalize` evens out channels between layers, `correct_bias` takes out mean errors (with `nearest`; the others do).
    On 2,000 to 8,000 training images that calibrated nothing, the logits of ResNet-20 | ResNet-8 stay this close to
    float (dB): min_max 30.0 | 32.2, percentile 30.5 | 32.7, mse 30.4 | 32.6; mse with biases
    corrected 30.9 | 34.7, and equalized as well 30.8 | 34.5.
    `average_bits` makes it mixed precision: each layer gets `weight_bits` or 8, whichever loses least on the
    calibration inputs while the weights take no more than so many bits on average. `joint_linear` gives all channels of
    a linear layer one step (16 bytes a channel less in a .tflite; only with `nearest`).
    `layer_bits` ("layer1.0.conv1=8") and `leave_float` ("head") make exceptions of layers, or modules, by their path.
    `weight_bits=7` is for x86 processors without VNNI, whose 16-bit sums of two products saturate at 8.
    """

    weight_bits: Annotated[Bits, "which of them a runtime takes, its writer says"] = 8
    activations: Activations = "uint8"
    ranges: Ranges = "mse"
    rounding: Rounding = "nearest"
    equalize: bool = False
    correct_bias: bool = True
    average_bits: Annotated[float, AtLeast(0), AtMost(8), "weight_bits everywhere"] = 0.0
    joint_linear: bool = False
    layer_bits: tuple[Annotated[str, Like("(?s:.+)=[2-8]", "layer1.0.conv1=8")], ...] = ()
    leave_float: tuple[Annotated[str, Like("(?s:.+)", "layer1.0.conv1")], ...] = ()

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "weight_bits"

    def __post_init__(self) -> None:
        checked(self)
        if self.average_bits and not self.weight_bits <= self.average_bits <= 8:
            raise RecipeError(
                f"average_bits is {self.average_bits} at weight_bits {self.weight_bits}.",
                mend="write a number from weight_bits to 8, or 0 for weight_bits everywhere.",
            )
        if self.joint_linear and self.rounding != "nearest":
            raise RecipeError(f"joint_linear with rounding '{self.rounding}'.", mend="round to 'nearest', or drop it.")
        both = sorted(set(self.leave_float) & self._exceptions().keys())
        if both:
            raise RecipeError(
                f"{', '.join(both)} shall stay float and have bits.", mend="drop it from leave_float or layer_bits."
            )

    def apply(self, model: Model, task: Task) -> Model:
        """The model with a grid for every weight and value that has an integer form."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        folded, batches = inference(model), self._inputs(model, task)
        scope = leaving_float(folded, self.leave_float)
        matrices = recurrent_grids(scope)
        if not matrices and not points(scope.graph):
            raise NothingChangedError(
                "no operation of this network has an integer form.", mend="see `haversack weigh` for its operations."
            )
        start = equalize(scope) if self.equalize else Equalized({}, {})
        even, scope = (each.with_tensors(start.tensors) if start.tensors else each for each in (folded, scope))
        noted = None if batches is None else Noted(folded, batches)
        seen = self._seen(scope, model, noted, start.divisors)
        grids = value_grids(scope, seen, self.ranges, self.activations)
        _tell(even, seen, self.leave_float)
        tell_matrices(matrices)
        rounded = self._rounded(even, scope, grids, noted, model.sparse)
        tensors = {**start.tensors, **rounded.tensors}
        settled = written_back(model, folded, tensors, noted) if tensors else model
        tables = table_grids(scope, grids, rounded.grids)
        return replace(settled, grids={**grids, **rounded.grids, **tables, **matrices})

    def skeleton(self) -> Self:
        """The same grids with weights rounded to the nearest: files of this size and speed, in a second."""
        return replace(self, rounding="nearest", equalize=False, correct_bias=False)

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8 bits, or as many as the kernels compute exactly with, then weights of 4, which save flash and no time.

        Nothing where integers do not pay.
        """
        if model.grids or "int8" not in device.number_formats:
            return
        activations: Activations = "int8" if device.signed_activations else "uint8"
        yield from (cls(device.weight_bits, activations), cls(4, activations, rounding="gptq"))

    @classmethod
    def choices(cls, model: Model, device: Device) -> LayerChoices | None:
        """A site a weight, with 8 bits and fewer, or 7 where the device's kernels saturate at 8.

        The step gives all weights that many where nothing else is chosen. None where integers do not pay.
        """
        if model.grids or "int8" not in device.number_formats:
            return None
        folded = inference(model)
        paths = paths_of(dict.fromkeys(layer.weight for layer in folded.layers(transposed=True)))
        activations: Activations = "int8" if device.signed_activations else "uint8"

        def made(chosen: Sequence[int]) -> QuantizeStatic:
            bits = {path: OFFERED[option] for path, option in zip(paths.values(), chosen, strict=True) if option}
            spelled = tuple(f"{path}={few}" for path, few in bits.items())
            return cls(device.weight_bits, activations, rounding="gptq" if bits else "nearest", layer_bits=spelled)

        return LayerChoices(
            model,
            sites=bit_sites(list(paths.values()), device.weight_bits),
            weights=tuple(paths),
            tried=lambda index, _: in_fewer_bits(folded, list(paths)[index]),
            made=made,
            normed=False,
        )

    @property
    def _writes(self) -> bool:
        """Whether weights or biases change."""
        return self.rounding != "nearest" or self.correct_bias

    def _exceptions(self) -> dict[str, int]:
        """The bits of layers by path."""
        found: dict[str, int] = {}
        for entry in self.layer_bits:
            path, _, bits = entry.rpartition("=")
            if path in found:
                raise RecipeError(f"layer_bits names {path} twice.", mend="name each layer once.")
            found[path] = int(bits)
        return found

    def _inputs(self, model: Model, task: Task) -> Batches | None:
        """The calibration inputs as files take them; None where the task has none, which is said."""
        if task.calibrate is not None:
            batches = model.as_files_take(task.calibration())
            count = sum(len(batch[0]) for batch in batches)
            if count < _FEWEST_SAMPLES:
                note(f"only {count} calibration inputs: ranges may be too narrow. Some hundred are better.")
            return batches
        if self.rounding != "nearest":
            raise TaskError(
                f"rounding '{self.rounding}' learns from calibration inputs, and the task has none.",
                where="calibrate",
                mend="give Task a calibrate() that yields some hundred typical inputs, or round to 'nearest'.",
            )
        said = ", biases uncorrected" if self.correct_bias else ""
        note(f"no calibration inputs: ranges come from batch norm's statistics{said}. Real inputs are more exact.")
        return None

    def _seen(
        self, scope: Folded, model: Model, noted: Noted | None, divisors: Mapping[str, Tensor]
    ) -> Mapping[str, Observed]:
        if noted is None:
            return ranges_from_norms(scope, points(scope.graph), model.example, divisors)
        # What layers compute is asked for where weights or biases change, and known of the network as it came.
        run = noted.watch if self._writes and scope is noted.folded else watch
        return observe(scope, points(scope.graph), noted.batches, counted=self.ranges != "min_max", run=run)

    def _rounded(
        self,
        folded: Folded,
        scope: Folded,
        grids: Mapping[str, Grid],
        noted: Noted | None,
        sparse: frozenset[str],
    ) -> Rounded:
        """The weights' grids, and the weights and biases that change."""
        bits = self._bits(scope, noted.batches if noted else None)
        weights = weight_grids(scope, grids, bits, joint=self.joint_linear)
        if noted is None or not self._writes:
            return Rounded({}, weights)
        if self.rounding == "nearest":
            return Rounded(corrected_biases(folded, {**grids, **weights}, noted), weights)
        clever_ones = {layer.weight for layer in scope.layers()} & folded.writable
        chosen = {name: count for name, count in bits.items() if name in clever_ones}
        clever = _rounding(self.rounding)(folded, grids, chosen, noted.batches, sparse)
        return Rounded(clever.tensors, {**weights, **clever.grids})

    def _bits(self, scope: Folded, batches: Batches | None) -> dict[str, int]:
        """The bits of each weight; exceptions come first, and the rest shares what they leave of the average."""
        bits = bits_by_weight(scope, self.weight_bits, self._exceptions())
        if not self.average_bits:
            return bits
        if batches is None:
            raise TaskError(
                "average_bits is spent by what each layer loses on calibration inputs, and the task has none.",
                where="calibrate",
                mend="give Task a calibrate(), or set layer_bits by hand.",
            )
        counts = {name: scope.tensor(name).numel() for name in bits}
        free = bits_by_weight(scope, 0, self._exceptions())
        losses = sensitivity(scope, sorted({self.weight_bits, 8}), batches)
        losses = {name: each for name, each in losses.items() if not free[name]}
        taken = sum(counts[name] * bits[name] for name in bits.keys() - losses.keys())
        return bits | spent(losses, counts, self.average_bits * sum(counts.values()) - taken)


def _rounding(name: Rounding) -> Callable[..., Rounded]:
    # Imported when used: what neither rounds nor learns need not wait for them.
    if name == "gptq":
        from haversack.techniques.quantize_static.closed_form import round_closed_form

        return round_closed_form
    from haversack.techniques.quantize_static.learned import round_learned

    return round_learned


def _tell(folded: Folded, seen: Mapping[str, Observed], asked: Sequence[str]) -> None:
    constant = [name for name, each in seen.items() if each.is_constant]
    if constant:
        note(f"constant on all calibration inputs: {', '.join(constant)}. Are the inputs typical?")
    # What is in steps of a byte vanishes into the grid of the input.
    floats = Counter(left_float(folded.graph)) - Counter(str(node.target) for node, _ in in_steps(folded.graph))
    if floats:
        note(f"these stay float32: {', '.join(f'{count} {name}' for name, count in floats.items())}.")
    if asked:
        note(f"left float32 as asked: {', '.join(asked)}.")
