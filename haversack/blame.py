"""Blame: which layers a quantized network loses its score to, and what mending them costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import fx, nn

from haversack.errors import NothingChangedError
from haversack.graph.cost import cost
from haversack.graph.inference import inference
from haversack.graph.observe import joined
from haversack.graph.trace import trace
from haversack.measure.parity import in_torch
from haversack.model import Model
from haversack.numerics.noise import LayerNoise, Pair, layer_noise, output_snr_db
from haversack.progress import say
from haversack.proof import Blame, Remedy, Suspect
from haversack.result import read_result
from haversack.task import Task

_SAMPLES = 128


def blame(folder: Path, network: nn.Module, task: Task, suspects: int = 3) -> Blame:
    """What the rounding of each layer costs in the result folder of `pack` or `apply`, worst first.

    The `suspects` worst are scored again with that layer left float, and then all of them together as a remedy: at 8
    bits where they have fewer, in float32 otherwise. Scores are those of torch's reading of the quantized graph. Where
    the network was pruned, its own rounded weights stand for the float ones, so that only rounded activations show.
    """
    model = _loaded(folder, network, task)
    pair, batches = _pair(model, network), [joined(task.calibration(), _SAMPLES)]
    found = sorted(layer_noise(pair, batches), key=lambda each: each.alone_db)
    if not found:
        raise NothingChangedError("no layer of it is quantized.", mend="blame a result that has integer weights.")
    work = {each.path: each.macs for each in cost(trace(model.module, model.example)).layers}
    total = sum(work.values()) or 1
    scored: list[float | None] = [_score(task, pair.with_layers_float([each.path])) for each in found[:suspects]]
    scored += [None] * (len(found) - len(scored))
    return Blame(
        folder=str(folder),
        score=_score(task, pair.lowered()),
        float_score=_score(task, pair.wanted),
        snr_db=output_snr_db(pair.wanted, pair.lowered(), batches),
        suspects=tuple(
            Suspect(each.path, each.bits, each.snr_db, each.alone_db, work.get(each.path, 0) / total, score)
            for each, score in zip(found, scored, strict=True)
        ),
        remedy=_remedy(pair, found[:suspects], task),
    )


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


def _remedy(pair: Pair, worst: Sequence[LayerNoise], task: Task) -> Remedy:
    """All of the worst mended at once: their score, and the bytes of flash that it costs."""
    if any(each.bits < 8 for each in worst):
        few = [each for each in worst if each.bits < 8]
        mended = pair.with_layers_of_8_bits({each.weight for each in few})
        extra = sum(each.weights * (8 - (4 if each.bits <= 4 else 8)) // 8 for each in few)
        return Remedy("layer_bits", tuple(f"{each.path}=8" for each in few), _score(task, mended), extra)
    extra = sum(each.weights * 3 for each in worst)
    mended = pair.with_layers_float([each.path for each in worst])
    return Remedy("leave_float", tuple(each.path for each in worst), _score(task, mended), extra)


def _score(task: Task, network: fx.GraphModule) -> float:
    return task.scored(in_torch(network))
