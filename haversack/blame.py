"""Blame: which layers a quantized network loses its score to, and what mending them costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import fx, nn

from haversack.device import Budget
from haversack.door import scored
from haversack.errors import NothingChangedError
from haversack.graph.cost import cost
from haversack.graph.inference import inference
from haversack.graph.observe import joined
from haversack.graph.trace import trace
from haversack.measure.parity import in_torch
from haversack.measurement import Figure, Measurement, chance
from haversack.model import Model
from haversack.numerics.noise import LayerNoise, Pair, layer_noise, output_snr_db
from haversack.progress import say
from haversack.proof import Blame, Remedy, Suspect
from haversack.quantity import show_bytes
from haversack.result import read_result
from haversack.task import Task
from haversack.untrusted import read_json, typed

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
    pair, batches = _pair(model, network), [joined(task.calibration(), _SAMPLES)]
    found = sorted(layer_noise(pair, batches), key=lambda each: each.alone_db)
    if not found:
        raise NothingChangedError("no layer of it is quantized.", mend="blame a result that has integer weights.")
    work = {each.path: each.macs for each in cost(trace(model.module, model.example)).layers}
    total = sum(work.values()) or 1
    scored: list[float | None] = [_score(task, pair.with_layers_float([each.path])).value for each in found[:suspects]]
    scored += [None] * (len(found) - len(scored))
    score, float_score = _score(task, pair.lowered()), _score(task, pair.wanted)
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
        names = {"update_bytes": "update"}
        if setting == "leave_float":
            names |= {"ram_bytes": "RAM", "latency_ms": "latency", "latency_ratio": "latency", "energy_mj": "energy"}
        limited = (shown for name, shown in names.items() if getattr(self.limits, name) is not None)
        return tuple(dict.fromkeys(limited))


def _limits(folder: Path) -> _Limits:
    path = folder / "measurement.json"
    if not path.is_file():
        return _Limits()
    data = read_json(path)
    found = {name: data[name] for name in ("limits", "packed") if name in data} if isinstance(data, dict) else {}
    return typed(_Limits, found, str(path))


@dataclass(frozen=True)
class _Loss:
    """A quantized network beside the float one, and what they score."""

    pair: Pair
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


def _pair(model: Model, network: nn.Module) -> Pair:
    """The quantized graph beside a float one of the same structure."""
    quantized = inference(model)
    if model.edits:
        say("the network was pruned: its rounded weights stand for the float ones.")
        return Pair(quantized, quantized, model.grids)
    return Pair(inference(replace(model, module=network.eval(), grids={})), quantized, model.grids)


def _score(task: Task, network: fx.GraphModule) -> Figure:
    return scored(task, in_torch(network))
