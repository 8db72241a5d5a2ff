"""Prove: one packed network in every runtime that is installed, against the integer reference, number by number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, fx, nn

from haversack.artifact import Orders, Runtime
from haversack.errors import HaversackError, ParityError
from haversack.graph.integer import IntegerGraph, Value
from haversack.graph.integer.read import read
from haversack.graph.integer.reference import run
from haversack.graph.lower import lower
from haversack.graph.qdq import pairs
from haversack.measure import host, parity
from haversack.measure.agreement import Scale
from haversack.measure.tensor_port import Port
from haversack.progress import say, track
from haversack.proof import Agreement, Proof, Witness
from haversack.result import read_result
from haversack.task import Task

Predict = Callable[..., Tensor]
Inputs = tuple[Tensor, ...]

_BATCH = 32
_TO_THE_BIT = "to the bit"
_LITTLE = 1e-3
"""Steps: what float32 loses on the way from an integer to a real number and back."""


@dataclass(frozen=True)
class Effort:
    """How much to do: so many samples of each kind, and a score only where it is taken within `patience_s`."""

    samples: int = 100
    seed: int = 0
    threads: int = 1
    patience_s: float = 60.0


@dataclass(frozen=True)
class _Party:
    """One way to compute the network. `exact` says whether integers come out to the bit."""

    name: str
    file: str
    predict: Predict
    exact: bool = False


def prove(folder: Path, network: nn.Module, task: Task, effort: Effort | None = None) -> Proof:
    """How far torch, the integer reference and all installed runtimes agree on what `pack` wrote into `folder`.

    The files in the folder are run; for a runtime whose file is not there, one is written from the same graph. Inputs
    are the task's calibration inputs and as many random ones, both rounded to the grid of the network's input, so that
    all start from the same integers. What was promised and not kept stands in the witnesses' `broken`.
    """
    effort = effort or Effort()
    model = read_result(folder, network, task)
    lowered = lower(model)
    seen = _typical(lowered, task, effort)
    drawn = _random(lowered, seen, effort)
    asked, absent = _Cast(lowered, folder, effort.threads).parties()
    answers = _all_answers(asked, seen, drawn, absent)
    parties = [party for party in asked if party.name in answers]
    scores = _scores(task, parties, {name: each.seconds for name, each in answers.items()}, effort)
    scale, reference = Scale.of(lowered), parties[0].name
    witnesses = []
    for party in parties:
        ours, theirs = answers[party.name], answers[reference]
        found = scale.agreement(ours.seen, theirs.seen), scale.agreement(ours.drawn, theirs.drawn)
        promise, broken = _judged(party, found, scale, quantized=model.number_format != "float32")
        promise = promise if party.name != reference else "the reference"
        witnesses.append(Witness(party.name, party.file, promise, *found, scores.get(party.name), broken))
    return Proof(str(folder), reference, scale.step is not None, tuple(witnesses), absent)


def require(proof: Proof) -> None:
    """Nothing, or a ParityError that names each runtime that broke its promise."""
    if proof.broken:
        said = "; ".join(f"{witness.name} {witness.broken}" for witness in proof.broken)
        raise ParityError(
            f"not every runtime computes what {proof.reference} computes: {said}.",
            where=proof.folder,
            mend="do not ship the file for that runtime, and please report it with the network.",
        )


@dataclass(frozen=True)
class _Cast:
    """Makes the parties of one result."""

    lowered: fx.GraphModule
    folder: Path
    threads: int

    def parties(self) -> tuple[list[_Party], dict[str, str]]:
        """All who can be asked, the reference first, and why the others cannot; optional runtimes where installed."""
        makers: dict[str, Callable[[], _Party]] = {
            "integer reference": self._reference,
            "torch": self._torch,
            "ONNX Runtime": self._onnx_runtime,
            "LiteRT": self._litert,
            "tflite-micro": self._micro,
        }
        if find_spec("openvino"):
            makers["OpenVINO"] = self._openvino
        if find_spec("executorch"):
            makers["ExecuTorch"] = self._executorch
        found, absent = [], {}
        for name, make in makers.items():
            try:
                found.append(make())
            except HaversackError as error:
                absent[name] = _on_one_line(error)
        return found, absent

    def _reference(self) -> _Party:
        graph = read(self.lowered)
        ports = [_port(graph.values[name], order) for name, order in zip(graph.inputs, graph.input_orders, strict=True)]
        port = _port(graph.values[graph.outputs[0]], graph.output_orders[0])

        def predict(*inputs: Tensor) -> Tensor:
            arrays = [each.taken(value.numpy()) for each, value in zip(ports, inputs, strict=True)]
            return torch.from_numpy(np.ascontiguousarray(port.given(run(graph, arrays)[0])))

        return _Party("integer reference", "", predict, exact=_all_on_integers(graph))

    def _torch(self) -> _Party:
        return _Party("torch", "network/", parity.in_torch(self.lowered))

    def _onnx_runtime(self) -> _Party:
        from haversack.export.onnx import RUNTIME

        content, source = self._file("model.onnx", RUNTIME)
        return _Party("ONNX Runtime", source, host.load(content, self.threads))

    def _openvino(self) -> _Party:
        from haversack.export.onnx import RUNTIME

        content, source = self._file("model.onnx", RUNTIME)
        return _Party("OpenVINO", source, host.load(content, self.threads, runtime="openvino"))

    def _executorch(self) -> _Party:
        from haversack.export.executorch import RUNTIME

        content, source = self._file("model.pte", RUNTIME)
        return _Party("ExecuTorch", source, host.load(content, self.threads))

    def _litert(self) -> _Party:
        from haversack.export.litert import RUNTIME

        content, source = self._file("model.tflite", RUNTIME)
        return _Party("LiteRT", source, host.load(content, self.threads, orders=self._orders()))

    def _micro(self) -> _Party:
        """The same file, unless it is what is written for LiteRT alone."""
        from haversack.export.litert import MICRO, RUNTIME

        content, source = self._file("model.tflite", MICRO)
        own = _written(MICRO, self.lowered)
        if own != content == _written(RUNTIME, self.lowered):
            content, source = own, _NOW
        predict = host.load(content, runtime="tflite-micro", orders=self._orders())
        return _Party("tflite-micro", source, predict, exact=_all_on_integers(read(self.lowered)))

    def _file(self, name: str, runtime: Runtime) -> tuple[bytes, str]:
        """The file of that name in the folder, or one that is written now; and which of them it is."""
        path = self.folder / name
        return (path.read_bytes(), name) if path.is_file() else (_written(runtime, self.lowered), _NOW)

    def _orders(self) -> Orders:
        graph = read(self.lowered)
        return graph.input_orders, graph.output_orders


_NOW = "written now"


def _written(runtime: Runtime, lowered: fx.GraphModule) -> bytes:
    return next(iter(runtime.write(lowered).values()))


def _on_one_line(error: HaversackError) -> str:
    return " ".join(str(error).split())


def _port(value: Value, order: tuple[int, ...]) -> Port:
    kind = np.dtype(value.dtype).type
    if value.grid is None:
        return Port(value.shape, kind, order=order)
    return Port(value.shape, kind, value.grid.scale[0], value.grid.zero_point[0], order)


def _all_on_integers(graph: IntegerGraph) -> bool:
    """Whether nothing between the first QUANTIZE and the last DEQUANTIZE is computed on real numbers."""
    computing = (each for each in graph.operations if each.kind not in ("QUANTIZE", "DEQUANTIZE"))
    return all(graph.values[name].grid is not None for each in computing for name in each.outputs)


def _typical(lowered: fx.GraphModule, task: Task, effort: Effort) -> list[Inputs]:
    """The first calibration inputs, on the grids that the network rounds its inputs to, in batches."""
    columns = [torch.cat(values) for values in zip(*task.calibration(), strict=True)]
    rounded = [_on_grid(node, column[: effort.samples]) for node, column in zip(_inputs(lowered), columns, strict=True)]
    return list(zip(*(column.split(_BATCH) for column in rounded), strict=True))


def _random(lowered: fx.GraphModule, seen: Sequence[Inputs], effort: Effort) -> list[Inputs]:
    """Inputs of any integer on the grid, or of any number between the calibration inputs' smallest and largest."""
    draw = torch.Generator().manual_seed(effort.seed)
    columns = []
    for node, values in zip(_inputs(lowered), zip(*seen, strict=True), strict=True):
        column = torch.cat(values)
        if not column.is_floating_point():
            columns.append(column[torch.randperm(len(column), generator=draw)])
            continue
        low, high = _range(node) or (float(column.min()), float(column.max()))
        columns.append(_on_grid(node, torch.empty_like(column).uniform_(low, high, generator=draw)))
    return list(zip(*(column.split(_BATCH) for column in columns), strict=True))


def _inputs(lowered: fx.GraphModule) -> list[fx.Node]:
    return list(lowered.graph.find_nodes(op="placeholder"))


def _quantizer(node: fx.Node) -> fx.Node | None:
    """What rounds an input to its grid."""
    return next((user for user in node.users if user.target is pairs.quantize_per_tensor.default), None)


def _range(node: fx.Node) -> tuple[float, float] | None:
    quantizer = _quantizer(node)
    if quantizer is None:
        return None
    scale, zero, low, high = cast("tuple[float, int, int, int]", quantizer.args[1:5])
    return (low - zero) * scale, (high - zero) * scale


def _on_grid(node: fx.Node, values: Tensor) -> Tensor:
    quantizer = _quantizer(node)
    if quantizer is None:
        return values
    settings = quantizer.args[1:]
    rounded: Tensor = pairs.dequantize_per_tensor(pairs.quantize_per_tensor(values, *settings), *settings)
    return rounded


@dataclass(frozen=True)
class _Answers:
    """What one party gave for both kinds of inputs, and how long one sample took."""

    seen: Tensor
    drawn: Tensor
    seconds: float


def _all_answers(
    parties: Sequence[_Party], seen: Sequence[Inputs], drawn: Sequence[Inputs], absent: dict[str, str]
) -> dict[str, _Answers]:
    """What each party gave; those that could not run the network join the absent."""
    answers = {}
    for party in track(parties, "proving", len(parties)):
        try:
            answers[party.name] = _answers(party, seen, drawn)
        except HaversackError as error:
            absent[party.name] = _on_one_line(error)
    return answers


def _answers(party: _Party, seen: Sequence[Inputs], drawn: Sequence[Inputs]) -> _Answers:
    begin = time.perf_counter()
    ours, others = (torch.cat([party.predict(*batch).detach() for batch in batches]) for batches in (seen, drawn))
    return _Answers(ours, others, (time.perf_counter() - begin) / (len(ours) + len(others)))


def _scores(task: Task, parties: Sequence[_Party], seconds: dict[str, float], effort: Effort) -> dict[str, float]:
    """The score of each, the quickest first: by then it is known how many samples the others would have to run."""
    scores: dict[str, float] = {}
    samples = 0
    for party in sorted(parties, key=lambda each: seconds[each.name]):
        if samples * seconds[party.name] > effort.patience_s:
            say(f"{party.name} is not scored: {samples} samples would take {samples * seconds[party.name]:.0f} s")
            continue
        counted = 0

        def predict(*inputs: Tensor, party: _Party = party) -> Tensor:
            nonlocal counted
            counted += len(inputs[0])
            return party.predict(*inputs)

        scores[party.name] = task.scored(predict)
        samples = counted
    return scores


def _judged(party: _Party, found: tuple[Agreement, Agreement], scale: Scale, *, quantized: bool) -> tuple[str, str]:
    """What the party promised, and how it broke it; the thresholds are those of the gate that files pass."""
    seen, drawn = found
    if party.exact:
        if min(seen.equal, drawn.equal) == 1.0 and max(seen.max_steps, drawn.max_steps) < _LITTLE:
            return _TO_THE_BIT, ""
        wrong = seen.mismatching_bytes + drawn.mismatching_bytes
        return _TO_THE_BIT, f"promised {_TO_THE_BIT}, and {wrong} bytes differ"
    limit = _limit(scale, quantized=quantized)
    promise = f"within {limit:g}"
    if not seen.max_steps <= limit or not math.isfinite(drawn.max_steps):
        return promise, f"promised to stay {promise}, and is off by {seen.max_steps:.3g}"
    one_step = seen.max_steps <= 1 + _LITTLE
    if quantized and not one_step and seen.same_class < parity.AGREEMENT:
        return promise, f"gives another class for {1 - seen.same_class:.1%} of the calibration inputs"
    return promise, ""


def _limit(scale: Scale, *, quantized: bool) -> float:
    if not quantized:
        return parity.RELATIVE_FLOAT32
    return parity.STEPS if scale.step is not None else parity.RELATIVE_QUANTIZED
