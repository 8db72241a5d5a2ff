"""Blame: which layers a quantized network loses its score to, how noisy each is, and what mending them costs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from haversack.batches import each_of
from haversack.calibration.rewrite import leaving_float
from haversack.errors import NothingChangedError
from haversack.graph.cost import cost
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.ops import FoldedLayer, points
from haversack.graph.run import Batches, joined, values_of
from haversack.graph.trace import layer_path, trace
from haversack.grid import Grid, symmetric
from haversack.limits import Budget
from haversack.measurement import Figure, Measurement, chance
from haversack.model import Model
from haversack.packing.check import scored, wired
from haversack.packing.result import read_result
from haversack.progress import say, track
from haversack.proof import Blame, Remedy, Suspect
from haversack.quantity import show_bytes
from haversack.result import MEASURED, Result
from haversack.runtimes.agreement import in_torch
from haversack.task import Task

_SILENCE_DB = 200.0


@dataclass(frozen=True)
class LayerNoise:
    """A layer of a quantized network: where it is, its weights, and what its rounding does."""

    path: str
    weight: str
    bits: int
    weights: int
    snr_db: float
    """Signal to noise of the layer's output, the noise of all layers before it included."""
    alone_db: float
    """Signal to noise of the network's outputs when this layer alone is quantized: the lower, the guiltier.

    The other way round, with this layer alone left float, rounding and biases that make up for each other's errors
    would hide the guilty.
    """


@dataclass(frozen=True)
class Counterparts:
    """A float inference graph, and the same graph with the weights and the grids of the quantized network."""

    wanted: Folded
    network: Folded
    grids: Mapping[str, Grid]

    def lowered(self) -> fx.GraphModule:
        """The quantized network."""
        return self.network.lowered(self.grids)

    def with_layers_float(self, paths: Sequence[str]) -> fx.GraphModule:
        """The quantized network with the layers at `paths` left float, their own weights and biases back."""
        free = leaving_float(self.network, paths)
        weights = {each.weight for found in (free.layers(), free.lookups()) for each in found}
        weights |= {name for layer in free.recurrents() for name in layer.weights}
        needed = {*points(free.graph), *weights}
        own = self._own(self.grids.keys() - needed)
        return self.network.with_tensors(own).lowered({name: self.grids[name] for name in self.grids.keys() & needed})

    def with_one_layer(self, layer: FoldedLayer) -> fx.GraphModule:
        """The float network in which this layer alone computes on integers."""
        own = {name: self.network.tensor(name) for name in (layer.weight, layer.bias) if name}
        names = {*own, layer.reads, layer.node.name, *(user.name for user in layer.node.users)}
        return self.wanted.with_tensors(own).lowered({name: self.grids[name] for name in self.grids.keys() & names})

    def with_layers_of_8_bits(self, weights: Collection[str]) -> fx.GraphModule:
        """The quantized network with these weights on grids of 8 bits, and the biases of their layers as they were."""
        own = self._own(weights)
        finer = {name: symmetric(own[name].abs().flatten(1).amax(1), axis=0, bits=8) for name in weights}
        return self.network.with_tensors(own).lowered({**self.grids, **finer})

    def _own(self, weights: Collection[str]) -> dict[str, Tensor]:
        """The float network's tensors of the layers with these weights: a bias was corrected for the rounded weight."""
        concerned = [layer for layer in self.network.layers() if layer.weight in weights]
        names = {name for layer in concerned for name in (layer.weight, layer.bias) if name}
        return {name: self.wanted.tensor(name) for name in names}


def output_snr_db(wanted: Folded, found: fx.GraphModule, batches: Batches) -> float:
    """Signal to noise of the outputs of `found`, those of `wanted` being the signal, in dB; at most 200."""
    signal = noise = 0.0
    with torch.no_grad():
        for batch in batches:
            for real, other in zip(each_of(wanted(*batch)), each_of(found(*batch)), strict=True):
                whole = real.double()
                signal, noise = signal + float(whole.square().sum()), noise + float((other - whole).square().sum())
    return _decibels(signal, noise)


def layer_noise(pair: Counterparts, batches: Batches) -> tuple[LayerNoise, ...]:
    """Each quantized layer in the order in which they run."""
    quantized = [layer for layer in pair.network.layers() if layer.weight in pair.grids]
    ratios = _ratios(pair, [layer.node.name for layer in quantized], batches)
    noise = []
    for layer in track(quantized, "each layer by itself", len(quantized)):
        name = layer.weight
        path = layer_path(layer.node) or name.removesuffix(".weight")
        alone = output_snr_db(pair.wanted, pair.with_one_layer(layer), batches)
        count = pair.network.tensor(name).numel()
        noise.append(LayerNoise(path, name, pair.grids[name].bits, count, ratios[layer.node.name], alone))
    return tuple(noise)


def _ratios(pair: Counterparts, names: Sequence[str], batches: Batches) -> dict[str, float]:
    """The signal to noise of the values called `names`."""
    signal, noise = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    lowered = pair.lowered()
    with torch.no_grad():
        for batch in batches:
            wanted, found = pair.wanted.run(batch, names), values_of(lowered, batch, names)
            for name in names:
                signal[name] += float(wanted[name].double().square().sum())
                noise[name] += float((found[name] - wanted[name]).double().square().sum())
    return {name: _decibels(signal[name], noise[name]) for name in names}


def _decibels(signal: float, noise: float) -> float:
    if noise <= 0 or signal <= 0:
        return _SILENCE_DB if noise <= 0 else -_SILENCE_DB
    return max(-_SILENCE_DB, min(_SILENCE_DB, 10 * math.log10(signal / noise)))


_SAMPLES = 128
_UNLIMITED = Budget()


def blame(folder: Path, network: nn.Module, task: Task, suspects: int = 3) -> Blame:
    """What the rounding of each layer costs in the result folder of `pack` or `apply`, worst first.

    The `suspects` worst are scored again with that layer left float, and then all of them together as a remedy: at 8
    bits where they have fewer, in float32 otherwise; fewer of them where the result's limit of flash leaves no room.
    Nothing is proposed where no score was lost, or won back, beyond what chance moves it by. Scores are those of
    torch's reading of the quantized graph. Where the network was pruned, its own rounded weights stand for the float
    ones, so that only rounded activations show.
    """
    model, limits = _loaded(folder, network, task), _limits(folder)
    pair, batches = _pair(model, wired(network.eval(), task)), [joined(task.calibration(), _SAMPLES)]
    found = sorted(layer_noise(pair, batches), key=lambda each: each.alone_db)
    if not found:
        raise NothingChangedError("no layer of it is quantized.", mend="blame a result that has integer weights.")
    work = {each.path: each.macs for each in cost(trace(model.module, model.example)).layers}
    total = sum(work.values()) or 1
    scored: list[float | None] = [_score(task, pair.with_layers_float([each.path])).value for each in found[:suspects]]
    scored += [None] * (len(found) - len(scored))
    score, float_score = _score(task, pair.lowered()), _score(task, pair.wanted.module)
    remedy = _remedy(_Loss(pair, task, score, float_score), found[:suspects], limits)
    return Blame(
        folder=str(folder),
        score=score.value,
        float_score=float_score.value,
        snr_db=output_snr_db(pair.wanted, pair.lowered(), batches),
        suspects=tuple(
            Suspect(each.path, each.bits, each.snr_db, each.alone_db, work.get(each.path, 0) / total, score)
            for each, score in zip(found, scored, strict=True)
        ),
        remedy=remedy if isinstance(remedy, Remedy) else None,
        why_none="" if isinstance(remedy, Remedy) else remedy,
    )


@dataclass(frozen=True)
class _Limits:
    """What the result was packed for, and what it was measured at; nothing is limited where neither is told."""

    limits: Budget = _UNLIMITED
    packed: Measurement | None = None

    @property
    def spare_bytes(self) -> float:
        """How much the file may grow."""
        if self.limits.flash_bytes is None or self.packed is None:
            return math.inf
        return self.limits.flash_bytes - self.packed.flash_bytes.value

    def unjudged(self, setting: str) -> tuple[str, ...]:
        """What else is limited that such a remedy may make worse: more bits take no time, float layers do."""
        limited = dict.fromkeys(limit.measure for limit in self.limits.asked if not limit.at_least)
        sent = [measure for measure in limited if measure == "update"]
        rest = [measure for measure in limited if measure not in ("flash", "update")]
        return (*sent, *rest) if setting == "leave_float" else tuple(sent)


def _limits(folder: Path) -> _Limits:
    if not (folder / MEASURED).is_file():
        return _Limits()
    measured = Result(folder).measured
    return _Limits(measured.limits, measured.packed)


@dataclass(frozen=True)
class _Loss:
    """A quantized network beside the float one, and what they score."""

    pair: Counterparts
    task: Task
    score: Figure
    float_score: Figure

    def mended(self, worst: Sequence[LayerNoise]) -> Remedy:
        """All of the worst mended at once: their score, and the bytes of flash that it costs."""
        few = [each for each in worst if each.bits < 8]
        if few:
            network = self.pair.with_layers_of_8_bits({each.weight for each in few})
            setting, layers = "layer_bits", tuple(f"{each.path}=8" for each in few)
        else:
            network = self.pair.with_layers_float([each.path for each in worst])
            setting, layers = "leave_float", tuple(each.path for each in worst)
        return Remedy(setting, layers, _score(self.task, network).value, _extra_bytes(worst))


def _extra_bytes(worst: Sequence[LayerNoise]) -> int:
    """What mending them adds to the file: to 8 bits those that have fewer, to 32 where none has."""
    few = [each for each in worst if each.bits < 8]
    if few:
        return sum(each.weights * (8 - (4 if each.bits <= 4 else 8)) // 8 for each in few)
    return sum(each.weights * 3 for each in worst)


def _remedy(loss: _Loss, worst: Sequence[LayerNoise], limits: _Limits) -> Remedy | str:
    """The remedy for as many of the worst layers as there is room for, or why there is none."""
    if loss.score.value >= loss.float_score.value - chance(loss.float_score):
        return "rounding costs no score beyond what chance moves it by"
    fitting = list(worst)
    while fitting and _extra_bytes(fitting) > limits.spare_bytes:
        fitting.pop()
    if not fitting:
        wanted, spare = show_bytes(_extra_bytes(worst[:1])), show_bytes(max(0.0, limits.spare_bytes))
        return f"mending {worst[0].path} takes {wanted} more flash, and the limit leaves {spare}"
    remedy = loss.mended(fitting)
    if remedy.score <= loss.score.value + chance(loss.score):
        return f"mending {', '.join(each.path for each in fitting)} wins no score beyond what chance moves it by"
    return replace(remedy, unjudged=limits.unjudged(remedy.setting))


def _loaded(folder: Path, network: nn.Module, task: Task) -> Model:
    model = read_result(folder, network, task)
    if not model.grids:
        raise NothingChangedError("the network in it is not quantized.", where=str(folder), mend="there is no blame.")
    return model


def _pair(model: Model, network: nn.Module) -> Counterparts:
    """The quantized graph beside a float one of the same structure."""
    quantized = inference(model)
    if model.edits:
        say("the network was pruned: its rounded weights stand for the float ones.")
        return Counterparts(quantized, quantized, model.grids)
    return Counterparts(inference(replace(model, module=network, grids={})), quantized, model.grids)


def _score(task: Task, network: nn.Module) -> Figure:
    return scored(task, in_torch(network))
