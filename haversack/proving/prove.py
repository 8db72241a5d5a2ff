"""Prove: one packed network in every runtime that is installed, against the integer reference, number by number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, fx, nn

from haversack.batches import each_of
from haversack.errors import CrashError, HaversackError, ParityError
from haversack.graph.inference import lower
from haversack.graph.one_length import filled
from haversack.graph.pairs import pairs
from haversack.graph.run import joined
from haversack.lengths import of_each_length
from haversack.measurement import Parity
from haversack.packing.check import at_one_length
from haversack.packing.result import read_result
from haversack.progress import say, track
from haversack.proof import Agreement, Proof, Witness, worst
from haversack.proving.examine import Runs, examined, made_for
from haversack.proving.parties import Cast, Party, Ready
from haversack.runtimes import agreement, formats, named
from haversack.runtimes.agreement import Scale
from haversack.task import Counted, Kinds, Task, kinds_of

Inputs = tuple[Tensor, ...]

_BATCH = 32
_TO_THE_BIT = "to the bit"
_NODE_BY_NODE = "; unoptimized, as kernels saturate on this host"
_LITTLE = 1e-3
"""Steps: what float32 loses on the way from an integer to a real number and back."""


@dataclass(frozen=True)
class Effort:
    """How much to do: so many samples of each kind, and a score only where it is taken within `patience_s`."""

    samples: int = 100
    seed: int = 0
    threads: int = 1
    patience_s: float = 60.0


def prove(folder: Path, network: nn.Module, task: Task, effort: Effort | None = None) -> Proof:
    """How far torch, the integer reference and all installed runtimes agree on what `pack` wrote into `folder`.

    The files in the folder are run, each in a process of its own; for a runtime whose file is not there, one is written
    from the same graph. Inputs are the task's calibration inputs and as many random ones, both rounded to the grid of
    the network's input, so that all start from the same integers. Files that no runtime runs are read and held against
    the network. What was promised and not kept stands in `broken` of the witnesses and the files.
    """
    effort = effort or Effort()
    model, meant = read_result(folder, network, task), named(made_for(folder))
    lowered = lower(at_one_length(model, task, meant.one_size) if meant and meant.one_size else model)
    lowered = meant.computed(lowered) if meant else lowered
    seen = _typical(lowered, task, effort)
    asked = _asked(
        Cast(lowered, folder, effort.threads, model.weight_bits).parties(), seen, _random(lowered, seen, effort)
    )
    moved = cache(partial(_moved, lowered, seen, task.kind))
    judge = _Judge(Scale.of(lowered), model.number_format != "float32", made_for(folder), task.kind, moved)
    answers = [(party, given) for party, given in asked if isinstance(given, _Answers)]
    reference, theirs = answers[0]
    witnesses = [judge.witness(party, given, theirs) for party, given in answers]
    witnesses[0] = replace(witnesses[0], promise="the reference")
    # The user's score is not asked about outputs that it was not written for: NaN, or another shape.
    sound = {witness.name for witness in witnesses if witness.calibration is not None}
    scores = _scores(task, {party.name: given for party, given in answers if party.name in sound}, effort)
    witnesses = [replace(witness, score=scores.get(witness.name)) for witness in witnesses]
    failed = {party: error for party, error in asked if isinstance(error, HaversackError)}
    witnesses += [judge.failed(party, error) for party, error in failed.items() if judge.is_broken(party, error)]
    absent = {party.name: _on_one_line(error) for party, error in failed.items() if not judge.is_broken(party, error)}
    files = examined(folder, model, _runs(witnesses, failed))
    return Proof(str(folder), reference.name, judge.scale.step is not None, tuple(witnesses), absent, files)


def require(proof: Proof) -> None:
    """Nothing, or a ParityError that names each runtime and each file that broke its promise."""
    broken = [f"{witness.name} {witness.broken}" for witness in proof.broken]
    broken += [f"{file.file} {file.broken}" for file in proof.files if file.broken]
    if broken:
        raise ParityError(
            f"not all of the result is what {proof.reference} computes: {'; '.join(broken)}.",
            where=proof.folder,
            mend="do not ship it: make the result again. If the file comes out like this again, please report it with "
            "the network.",
        )


def _runs(witnesses: Sequence[Witness], failed: dict[Party, HaversackError]) -> dict[str, Runs]:
    """What became of each file that runtimes run."""
    ran: dict[str, list[str]] = {}
    refused: dict[str, dict[str, str]] = {}
    for witness in witnesses:
        if witness.calibration is not None:
            ran.setdefault(witness.file, []).append(witness.name)
    for party, error in failed.items():
        if party.runtime is None or party.runtime.is_installed:
            refused.setdefault(party.file, {})[party.name] = _cause(error)
    return {known.file: Runs(ran.get(known.file, ()), refused.get(known.file, {})) for known in formats()}


def _cause(error: HaversackError) -> str:
    return " ".join(error.what.split()).removesuffix(".")


def _on_one_line(error: HaversackError) -> str:
    return " ".join(str(error).split())


def _typical(lowered: fx.GraphModule, task: Task, effort: Effort) -> list[Inputs]:
    """The first calibration inputs, as many of each length, on the grids that the network rounds its inputs to.

    Where files have one length they are filled up to it.
    """
    alike = of_each_length(task.calibration())
    few = max(1, effort.samples // len(alike))
    some = [filled(lowered, joined(batches, few)) for batches in alike]
    return [batch for inputs in some for batch in _rounded(lowered, inputs)]


def _rounded(lowered: fx.GraphModule, inputs: Inputs) -> list[Inputs]:
    """The inputs on the network's grids, in batches."""
    rounded = [_on_grid(node, column) for node, column in zip(_inputs(lowered), inputs, strict=True)]
    return list(zip(*(column.split(_BATCH) for column in rounded), strict=True))


def _random(lowered: fx.GraphModule, seen: Sequence[Inputs], effort: Effort) -> list[Inputs]:
    """Inputs of any integer on the grid, or of any number between the calibration inputs' smallest and largest."""
    draw = torch.Generator().manual_seed(effort.seed)
    return [batch for batches in of_each_length(seen) for batch in _drawn(lowered, joined(batches), draw)]


def _drawn(lowered: fx.GraphModule, seen: Inputs, draw: torch.Generator) -> list[Inputs]:
    """As many as those of one length that were seen."""
    columns = []
    for node, column in zip(_inputs(lowered), seen, strict=True):
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

    opened: Ready
    seen: tuple[Tensor, ...]
    """Each output on the calibration inputs."""
    drawn: tuple[Tensor, ...]
    """And on the random ones."""
    samples: tuple[int, int]
    """How many there were of each."""
    seconds: float


def _asked(
    parties: Sequence[Party], seen: Sequence[Inputs], drawn: Sequence[Inputs]
) -> list[tuple[Party, _Answers | HaversackError]]:
    """What each party gave, or why it could not."""
    found: list[tuple[Party, _Answers | HaversackError]] = []
    for party in track(parties, "proving", len(parties)):
        try:
            found.append((party, _answers(party.open(), seen, drawn)))
        except HaversackError as error:
            found.append((party, error))
    return found


def _answers(opened: Ready, seen: Sequence[Inputs], drawn: Sequence[Inputs]) -> _Answers:
    begin = time.perf_counter()
    ours, others = (_joined([each_of(opened.predict(*batch)) for batch in batches]) for batches in (seen, drawn))
    taken = time.perf_counter() - begin
    count, more = (sum(len(batch[0]) for batch in batches) for batches in (seen, drawn))
    return _Answers(opened, ours, others, (count, more), taken / (count + more))


def _joined(outputs: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Each output over all batches; as plain numbers one after the other where the inputs' lengths are in its shape."""
    return tuple(_one(tuple(part.detach() for part in parts)) for parts in zip(*outputs, strict=True))


def _one(parts: tuple[Tensor, ...]) -> Tensor:
    alike = len({part.shape[1:] for part in parts}) == 1
    return torch.cat(parts if alike else [part.flatten() for part in parts])


def _scores(task: Task, answers: dict[str, _Answers], effort: Effort) -> dict[str, float]:
    """The score of each, the quickest first: by then it is known how many samples the others would have to run."""
    scores: dict[str, float] = {}
    samples = 0
    for name, given in sorted(answers.items(), key=lambda each: each[1].seconds):
        if samples * given.seconds > effort.patience_s:
            say(f"{name} is not scored: {samples} samples would take {samples * given.seconds:.0f} s")
            continue
        counted = Counted(given.opened.predict)
        scores[name] = task.scored(counted)
        samples = counted.samples
    return scores


def _moved(lowered: fx.GraphModule, inputs: Sequence[Inputs], kind: Kinds) -> Parity:
    """How far the network's outputs move when sums are added up in another order."""
    ways = agreement.in_torch(lowered), agreement.in_another_order(lowered)
    one, other = (agreement.outputs(each, inputs) for each in ways)
    return agreement.compare(one, other, Scale.of(lowered).step, kind)


@dataclass(frozen=True)
class _Judge:
    """Holds what each party gave against its promise. The thresholds are those of the gate that files pass."""

    scale: Scale
    quantized: bool
    made_for: str
    """The runtime that the result was made for; empty where it does not tell."""
    kind: Kinds
    moved: Callable[[], Parity]
    """How far the order of sums alone moves the outputs; asked for where a file is further off than it may be."""

    def witness(self, party: Party, given: _Answers, reference: _Answers) -> Witness:
        """The party's agreement with the reference, and how it broke its promise, if it did."""
        exact = given.opened.exact
        promise = _TO_THE_BIT if exact else f"within {self._limit:g}; random ones finite"
        promise += "" if given.opened.optimized else _NODE_BY_NODE
        said = Witness(party.name, given.opened.file, promise, None, None, None)
        strange = _strange(given, reference)
        if strange:
            return replace(said, broken=strange)
        seen, drawn = (
            replace(self._agreement(ours, theirs), samples=count)
            for ours, theirs, count in zip(
                (given.seen, given.drawn), (reference.seen, reference.drawn), given.samples, strict=True
            )
        )
        broken = _inexact(seen, drawn) if exact else self._far(seen)
        if broken and not exact and self.quantized and self._gate.lets_where(_parity(seen), self.moved(), self.moved()):
            promise = f"as near as the order of sums leaves it ({self.moved().max_steps:.3g}); random ones finite"
            broken = ""
        return replace(said, promise=promise, calibration=seen, random=drawn, broken=broken)

    def _agreement(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Agreement:
        """Of all outputs together; the largest one of those that are no classes says nothing."""
        found = [self.scale.agreement(*each) for each in zip(ours, theirs, strict=True)]
        kinds = kinds_of(self.kind, len(found))
        return worst(
            each if kind == "classification" else replace(each, same_class=1.0)
            for each, kind in zip(found, kinds, strict=True)
        )

    def failed(self, party: Party, error: HaversackError) -> Witness:
        """The party whose runtime could not run its file."""
        return Witness(party.name, party.file, "to run it", None, None, None, f"cannot run it: {_cause(error)}")

    def is_broken(self, party: Party, error: HaversackError) -> bool:
        """Whether that broke a promise: the file was made for that runtime, or the runtime crashed over it."""
        if isinstance(error, CrashError):
            return True
        runtime, meant = party.runtime, named(self.made_for)
        if runtime is None or not party.file or not runtime.is_installed:
            return False
        return runtime == (meant if meant and meant.format == runtime.format else runtime.first)

    @property
    def _gate(self) -> agreement.Gate:
        return agreement.Gate(self.quantized, self.scale.step)

    @property
    def _limit(self) -> float:
        return self._gate.limit

    def _far(self, seen: Agreement) -> str:
        if not seen.max_steps <= self._limit:
            return f"promised to stay within {self._limit:g}, and is off by {seen.max_steps:.3g}"
        if not self._gate.lets(_parity(seen)):
            return f"gives another class for {1 - seen.same_class:.1%} of the calibration inputs"
        return ""


def _parity(seen: Agreement) -> Parity:
    return Parity(seen.max_steps, seen.same_class, seen.samples)


def _strange(given: _Answers, reference: _Answers) -> str:
    """What keeps outputs from being compared at all; empty for outputs of the same shape that are finite."""
    for kind, ours, theirs in (
        ("calibration", given.seen, reference.seen),
        ("random", given.drawn, reference.drawn),
    ):
        shapes, wanted = ([tuple(each.shape) for each in one] for one in (ours, theirs))
        if shapes != wanted:
            return f"gives outputs of the shape {', '.join(map(str, shapes))}, not {', '.join(map(str, wanted))}"
        if not all(bool(each.isfinite().all()) for each in ours):
            return f"gives NaN or infinity for {kind} inputs"
    return ""


def _inexact(seen: Agreement, drawn: Agreement) -> str:
    if min(seen.equal, drawn.equal) == 1.0 and max(seen.max_steps, drawn.max_steps) < _LITTLE:
        return ""
    return f"promised {_TO_THE_BIT}, and {seen.mismatching_bytes + drawn.mismatching_bytes} bytes differ"
