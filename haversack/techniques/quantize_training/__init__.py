"""Few-bit weights and activations that the network learned to live with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from torch import Tensor, fx

from haversack.calibration.ranges import Ranges, limits_for_bias, observe, recurrent_grids, value_grids, weight_grids
from haversack.calibration.rewrite import tell_matrices
from haversack.device import Device
from haversack.errors import NothingChangedError
from haversack.graph.bytes import in_steps
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import Trait, left_float, lowest, points, sharing, traits_of
from haversack.graph.run import Batches
from haversack.graph.write_back import written_back
from haversack.grid import Grid, affine
from haversack.model import Model
from haversack.progress import note
from haversack.recipe import Stage, Step
from haversack.settings import Bits, Count, Positive, Share, checked
from haversack.task import Task
from haversack.techniques.quantize_training.fake import fake_quantized
from haversack.training import Training, finetune

# What gives nothing negative where it reads nothing negative.
_KEEP_SIGN = Trait.AVERAGE | Trait.PICK | Trait.JOIN | Trait.SUM | Trait.PRODUCT | Trait.KEEPS_SIGN
_KEEP_SIGN |= Trait.RESHAPE | Trait.REARRANGE | Trait.SLICE


@dataclass(frozen=True)
class QuantizeTraining(Step):
    """Quantization-aware training with learned steps (LSQ, Esser et al. 2020) on the graph that devices compute.

    Batch norm is folded first; then the network trains for `epochs` with its weights, values and biases rounded as the
    device rounds them, and with the float network as its teacher (`distillation` is the teacher's share of the loss).

    Weights: symmetric, one learned step an output channel, `weight_bits`, save that the layers which read the network's
    input or make its output have `ends_bits` if that is more, as in nearly all published results. Values that a layer
    reads and that cannot be negative (after a ReLU) have `activation_bits`; they use the upper end of 8-bit integers,
    so that saturation and the ReLU clamp them in every runtime. All other values keep 8 bits: the network's input and
    output, what only sums and pools read, and what may be negative, which no runtime clamps at both ends. Recurrent
    layers compute on real numbers, and their matrices are rounded to 8 bits for storage, once they have trained.

    The optimizer is Adam: folded weights differ in scale between channels. Its rate matters (ResNet-20, 4 bits, twice
    10,000 images, share of 5,000 held-back training images that is right: 0.951 before training, 0.985 at 2e-4, 0.986
    at 3e-4, 0.975 at 1e-3, 0.951 at 2e-3). With `epochs=0` the ranges are calibrated and nothing is trained.
    """

    weight_bits: Bits = 8
    activation_bits: Bits = 8
    epochs: Count = 2
    learning_rate: Positive = 3e-4
    activations: Annotated[Literal["uint8", "int8"], "uint8 for x86, int8 for Arm"] = "uint8"
    ranges: Ranges = "mse"
    ends_bits: Bits = 8
    distillation: Annotated[Share, "the teacher's share"] = 0.7
    seed: int = 0

    stage: ClassVar[Stage] = Stage.NUMERICS
    strength: ClassVar[str] = "weight_bits"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:
        """The trained model with a grid for every weight and value that has an integer form."""
        if model.grids:
            raise NothingChangedError("the network is quantized already.", mend="quantize the float network.")
        folded = inference(model)
        if not points(folded.graph):
            raise NothingChangedError(
                "no operation of this network has an integer form.", mend="see `haversack weigh` for its operations."
            )
        values = self._value_grids(folded, model.as_files_take(task.calibration()))
        _tell(folded, values, self.activation_bits)
        grids = {**values, **weight_grids(folded, values, self._weight_bits(folded))}
        names = _trainable(model, folded)
        fake = fake_quantized(folded, grids, names, _floors(folded, grids))
        if self.epochs:
            student = replace(model, module=fake.network, teacher=model.teacher or model.module)
            fake = replace(fake, network=finetune(student, task, self._training()))
        rounded = fake.read_off(names)
        trained = written_back(model, folded, rounded.tensors, task.calibration())
        matrices = recurrent_grids(inference(trained))
        tell_matrices(matrices)
        return replace(trained, grids={**rounded.grids, **matrices})

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """8-bit weights, or as many bits as the kernels compute exactly with, and 4-bit ones, where integers pay.

        Fewer activation bits make no file smaller and no runtime faster, so they are for who asks for them.
        """
        if model.grids or "int8" not in device.number_formats:
            return
        activations: Literal["uint8", "int8"] = "int8" if device.signed_activations else "uint8"
        most = device.weight_bits
        yield from (cls(bits, ends_bits=most, activations=activations) for bits in (most, 4))

    def _training(self) -> Training:
        return Training(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            distillation=self.distillation,
            seed=self.seed,
            optimizer="adam",
        )

    def _value_grids(self, folded: Folded, batches: Batches) -> dict[str, Grid]:
        """Where each value's grid starts from."""
        seen = observe(folded, points(folded.graph), batches, counted=self.ranges != "min_max")
        grids = value_grids(folded, seen, self.ranges, self.activations)
        groups = {name: group for group in sharing(folded.graph) for name in group}
        narrow = _may_be_narrow(folded)
        for name in seen if self.activation_bits < 8 else ():
            members = groups.get(name, (name,))
            if narrow(members):
                high = max(seen[member].limits(self.ranges, bits=self.activation_bits)[1] for member in members)
                grids[name] = _at_the_top(high, self.activation_bits, signed=self.activations == "int8")
        return grids

    def _weight_bits(self, folded: Folded) -> dict[str, int]:
        ends = _ends(folded)
        most = max(self.weight_bits, self.ends_bits)
        return {layer.weight: most if layer.weight in ends else self.weight_bits for layer in folded.layers()}


def _trainable(model: Model, folded: Folded) -> frozenset[str]:
    """What training changes: the network's own parameters, and the biases that batch norm brings."""
    own = dict(model.module.named_parameters(remove_duplicate=False))
    brought = {norm.folded_bias for norm in folded.norms.values()}
    return frozenset(name for name in folded.writable if name in own or name in brought)


def _may_be_narrow(folded: Folded) -> Callable[[Collection[str]], bool]:
    """Says of values with one grid whether they may have few bits: a layer reads some, and none can be negative."""
    read = {layer.reads for layer in folded.layers()}
    written = {value.name for value in folded.graph.output_node().all_input_nodes}
    allowed = _nonnegative(folded.graph) - written
    return lambda members: allowed.issuperset(members) and not read.isdisjoint(members)


def _nonnegative(graph: fx.Graph) -> set[str]:
    """The values that are zero or more whatever the input is."""
    found: set[str] = set()
    for node in graph.nodes:
        carries = traits_of(node) & _KEEP_SIGN and not node.kwargs
        carried = carries and all(each.name in found for each in _tensors_read(node))
        low = lowest(node)
        if carried or (low is not None and low >= 0):
            found.add(node.name)
    return found


def _ends(folded: Folded) -> set[str]:
    """The weights of the layers that read the network's input, and of those that make its outputs."""
    layers, inputs = tuple(folded.layers()), {node.name for node in folded.graph.find_nodes(op="placeholder")}
    weights = {layer.node: layer.weight for layer in layers}
    first = {layer.weight for layer in layers if layer.reads in inputs}
    last = {_layer_behind(output, weights.keys()) for output in folded.graph.output_node().all_input_nodes}
    return first | {weights[layer] for layer in last if layer is not None}


def _layer_behind(value: fx.Node, found: Collection[fx.Node]) -> fx.Node | None:
    """The layer from which `value` is made without any other value; None where there is none."""
    while value not in found:
        inputs = [each for each in _tensors_read(value) if each.op != "get_attr"]
        if len(inputs) != 1:
            return None
        value = inputs[0]
    return value


def _tensors_read(node: fx.Node) -> list[fx.Node]:
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]


def _tell(folded: Folded, values: Mapping[str, Grid], activation_bits: int) -> None:
    inputs = {node.name for node in folded.graph.find_nodes(op="placeholder")}
    read = dict.fromkeys(layer.reads for layer in folded.layers())
    wide = [name for name in read if name not in inputs and values[name].qmax - values[name].qmin == 255]
    if wide and activation_bits < 8:
        note(f"these keep 8 bits, because they may be negative: {', '.join(wide)}.")
    # What is in steps of a byte vanishes into the grid of the input.
    floats = Counter(left_float(folded.graph)) - Counter(str(node.target) for node, _ in in_steps(folded.graph))
    if floats:
        note(f"these stay float32: {', '.join(f'{count} {name}' for name, count in floats.items())}.")


def _floors(folded: Folded, grids: Mapping[str, Grid]) -> dict[str, Tensor]:
    """The least weight steps that leave each bias 32 bits, a quarter used, in steps of input step x weight step."""
    floors: dict[str, Tensor] = {}
    for layer in folded.layers():
        name, grid = layer.weight, grids[layer.weight]
        limits = limits_for_bias(folded, layer.bias, grids[layer.reads], grid.bits)
        least = (4 * limits / grid.qmax).expand(len(grid.scale)).clamp_min(1e-8)
        floors[name] = torch.maximum(least, floors.get(name, least))
    return floors


def _at_the_top(high: float, bits: int, *, signed: bool) -> Grid:
    """The grid from 0 to `high` on the uppermost integers of 8 bits, where saturation clamps it."""
    top = 127 if signed else 255
    zero = top - (1 << bits) + 1
    return Grid(8, signed, affine(0, high, bits=bits).scale, (zero,), qmin=zero, qmax=top)
