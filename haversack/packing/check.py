"""Door: what the user handed in is checked once, here, before any work."""

from __future__ import annotations

import copy
import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from haversack.batches import Outputs, each_of, mapped
from haversack.errors import TaskError, WorkspaceError
from haversack.filling import Filling
from haversack.graph.inference import inference, lower
from haversack.graph.one_length import at_its_length
from haversack.graph.positions import outputs_along
from haversack.graph.prepare import notes_of
from haversack.graph.trace import trace
from haversack.lengths import PAD, Axes, axes_of, longest, of_each_length, require_fixed
from haversack.measurement import Figure, chance, share_of
from haversack.model import Model
from haversack.positions import Mask, place_of_mask
from haversack.preparing import check_bytes
from haversack.progress import tell
from haversack.runtimes import Arrays, agreement
from haversack.task import Counted, Predict, Task, brief, check_depth
from haversack.wiring import free_axes, input_names, masked, rewired

_SAMPLES = 8
_CLEARLY, _FAR = 5, 0.25
"""A destroyed network scores better by chance now and then where it knew nothing: not by so many standard errors and,
beside, so much of its score."""
_KEPT = 1 << 27
"""Numbers of outputs that are remembered."""
_REPEATED = 1e-4
"""How far two runs may be apart, relative to the largest output: sums may be taken in another order."""


def check_alone() -> None:
    """Raises WorkspaceError in one of several processes, as `torchrun` starts them: they would pack the same thing."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes.isdigit() and int(processes) > 1:
        raise WorkspaceError(
            f"packing runs in one process, and this is one of {processes} (WORLD_SIZE).",
            mend="start it without torchrun. Steps that a script of yours applies train in all processes: see "
            "examples/many_processes.py.",
        )


def checked_model(module: nn.Module, task: Task, fixed: str = "") -> Model:
    """The user's network with an example input, after it ran on the calibration inputs and gave sensible outputs.

    `fixed` is what files are called that have one size; empty where they take any length.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise TaskError(
            "the network is TorchScript, which cannot be edited or exported.",
            where="network()",
            mend="return the nn.Module that it was scripted or traced from.",
        )
    check_depth(module)
    module = module.eval()
    _check_copies(module)
    module = wired(module, task)
    few = _few(task)
    outputs = each_of(cast("Outputs", _run(module, few)))
    for each in outputs:
        _check_output(each)
    _check_repeatable(module, few, outputs)
    model = Model(module, example_of(task), teacher=module)
    model = at_one_length(model, task, fixed) if fixed else model
    model = replace(model, notes=_checked_lengths(model, task))
    if task.prepare is None:
        return model
    return replace(model, notes=(*model.notes, *notes_of(inference(model))))


def at_one_length(model: Model, task: Task, what: str) -> Model:
    """The model whose files have the length of the longest calibration inputs: shorter ones are filled up to it.

    It is as it was where no length is free. Raises ExportError where the task does not say with what, `what` being
    what such files are called.
    """
    free, batches = free_axes(model.module), task.calibration()
    if task.pad is None:
        require_fixed(free, what)
    if not free or task.pad is None:
        return model
    names = task.names or input_names(model.module, len(free))
    filling = Filling.of(task.pad, names, free, batches)
    return replace(model, example=filling.filled(model.example), filling=filling)


def _checked_lengths(model: Model, task: Task) -> tuple[str, ...]:
    """What must be said of the length that is timed. Raises an error where the network fixes one that shall be free."""
    free = free_axes(model.module)
    if not free:
        return ()
    alike = of_each_length(task.calibration())
    for batch, *_ in alike:
        _run(model.module, tuple(value[:1] for value in batch), mend=PAD)
    trace(model.module, model.example)
    if model.filling is not None:
        return _filled_up(model, model.filling, [tuple(value[:_SAMPLES] for value in batch) for batch, *_ in alike])
    sizes = dict(called for value, axes in zip(model.example, free, strict=True) for called in _called(value, axes))
    told = ", ".join(f"{name} {size}" for name, size in sizes.items())
    return (f"lengths are free in the file; time and memory are those of the longest calibration inputs: {told}.",)


def _filled_up(model: Model, filling: Filling, few: list[tuple[Tensor, ...]]) -> tuple[str, ...]:
    """To which length inputs are filled up, and what that does to outputs where it is no rounding."""
    said = (
        f"inputs are filled up to {filling} for the file, the longest calibration inputs' length; none may be longer."
    )
    alone = agreement.in_torch(model.module)
    one, other = (agreement.outputs(each, few) for each in (alone, at_its_length(lower(model), alone)))
    moved = agreement.compare(one, other, kind="regression").max_steps
    if moved <= _REPEATED:
        return (said,)
    return said, f"filling up alone moves outputs by up to {moved:.2g} of the largest: the network reads the filling."


def _called(value: Tensor, axes: Axes) -> list[tuple[str, int]]:
    return [(name, value.shape[dim]) for dim, name in axes]


def _check_output(outputs: Tensor) -> None:
    """Raises TaskError for outputs that say nothing of the samples."""
    if outputs.dim() == 0:
        raise TaskError(
            "the network returns a single number for a whole batch.",
            where="network()",
            mend="return one output a sample, before any loss or average.",
        )
    if not outputs.isfinite().all():
        raise TaskError(
            "the network's outputs hold NaN or infinity.", where="network()", mend="load trained weights, check inputs."
        )
    if len(outputs) > 1 and outputs.numel() > 1 and bool((outputs == outputs[:1]).all()):
        raise TaskError(
            f"the network gives the same output for {len(outputs)} different inputs.",
            where="network()",
            mend="load trained weights; check that calibrate() yields different inputs.",
        )


def wired(module: nn.Module, task: Task) -> nn.Module:
    """The network as it is computed with: tensors in order, in the order of their names, give the one that is wanted.

    That is the network itself where it takes and gives no others, and all of one length. One whose task prepares bytes
    takes these.
    """
    few = _few(task)
    names = task.names or ()
    free = axes_of(task.free, names or input_names(module, len(few)), task.calibration())
    if task.prepare is not None:
        check_bytes(task.prepare, few)
    elif not names and not task.outputs and not free and not task.mask and isinstance(_run(module, few), Tensor):
        return module
    twin = rewired(module, names, task.outputs, task.prepare, free)
    return _masked(twin, task) if task.mask else twin


def _masked(module: nn.Module, task: Task) -> nn.Module:
    """The network that knows which positions of its outputs count."""
    free, batches = free_axes(module), task.calibration()
    place = place_of_mask(task.mask, task.names or input_names(module, len(batches[0])), free, batches)
    graph = trace(module, example_of(task)).structure.plain
    return masked(module, Mask(place, outputs_along(graph, free, place)))


def example_of(task: Task) -> tuple[Tensor, ...]:
    """One sample of calibrate(): where lengths differ, of the longest, whose time and memory are the worst."""
    return tuple(value[:1] for value in longest(task.calibration()))


def fed(model: Model) -> Arrays | None:
    """What a model's file is timed on: its example where lengths are free; None where the file tells the sizes."""
    free = free_axes(model.module) and model.filling is None
    return [value.numpy() for value in model.example] if free else None


def _few(task: Task) -> tuple[Tensor, ...]:
    return tuple(value[:_SAMPLES] for value in longest(task.calibration()))


def _check_copies(module: nn.Module) -> None:
    """Raises TaskError for a network that cannot be copied, as every step does; its weights are not copied here."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    try:
        copy.deepcopy(module, shared)
    except Exception as error:
        raise TaskError(
            f"the network cannot be copied: {brief(error)}.",
            where="network()",
            mend="keep locks, open files, generators and computed tensors out of it: copy.deepcopy must work.",
        ) from error


def scored(task: Task, predict: Predict) -> Figure:
    """The score of `predict`, with what chance moves it by where it is a share of known samples."""
    return _figure(task, task.scored, predict, task.samples)


def validated(task: Task, predict: Predict) -> Figure:
    """What `predict` scores on the samples that decide nothing."""
    return _figure(task, task.validated, predict)


def _figure(task: Task, taken: Callable[[Predict], float], predict: Predict, samples: int | None = None) -> Figure:
    """The number that is `taken`, a share of `samples`, or of those that passed where the task is a classification."""
    counted = Counted(predict)
    value = taken(counted)
    behind = samples or (counted.samples if task.kind == "classification" else 0)
    return share_of(behind, value) if behind and 0 <= value <= 1 else Figure(value, "host")


def checked_score(task: Task, predict: Predict) -> Figure:
    """The score of `predict`, taken twice, and of its outputs shuffled: repeatable, and more is better.

    One that does not depend on the outputs is said to be so.
    What it gave for a batch is remembered meanwhile: these are runs of the score, not of the network.
    """
    predict = RunOnce(predict)
    first, second = scored(task, predict), task.scored(predict)
    if not math.isclose(first.value, second, rel_tol=1e-9, abs_tol=1e-12):
        raise TaskError(
            f"the same network scored {first.value:.6g} and then {second:.6g}.",
            where="score()",
            mend="score on the same samples each time: fix the seed, do not shuffle or augment.",
        )
    shuffled = task.scored(_shuffled(predict))
    if shuffled > first.value + _CLEARLY * chance(first) + _FAR * abs(first.value):
        raise TaskError(
            f"the score rises when the network is destroyed: from {first.value:.4g} to {shuffled:.4g} with its outputs "
            "handed out among the wrong samples.",
            where="score()",
            mend="return a number of which more is better: 1 - error, or -loss; and load trained weights.",
        )
    if shuffled == first.value == task.scored(_emptied(predict)):
        tell(
            f"score() gives {first.value:.4g} whatever the network puts out: what packing costs is not seen, and a "
            "limit on the score is always kept"
        )
    return first


@dataclass
class RunOnce:
    """A predict function that computes nothing twice, as long as its outputs have room: batches are known by bytes."""

    predict: Predict
    known: dict[bytes, Outputs] = field(default_factory=dict)
    room: int = _KEPT

    def __call__(self, *inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
        """The outputs of `predict`."""
        name = _digest(inputs)
        if name is None:
            return self.predict(*inputs)
        if name not in self.known:
            outputs = self.predict(*inputs)
            if not isinstance(outputs, Tensor | tuple) or _size(outputs) > self.room - self._held:
                return outputs
            self.known[name] = mapped(Tensor.clone, outputs)
        return mapped(Tensor.clone, self.known[name])

    @property
    def _held(self) -> int:
        return sum(map(_size, self.known.values()))


def _size(outputs: Outputs) -> int:
    return sum(each.numel() for each in each_of(outputs))


def _digest(inputs: Sequence[object]) -> bytes | None:
    """The same for inputs of the same bytes, shapes and types; None where one is no plain tensor in memory."""
    digest = hashlib.sha256()
    for value in inputs:
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            return None
        digest.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().resolve_conj().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()


def _shuffled(predict: Predict) -> Predict:
    """Predicts for each sample what `predict` does for another of its batch."""

    def wrong(outputs: Tensor) -> Tensor:
        if not outputs.dim():
            return outputs
        return outputs[torch.randperm(len(outputs), generator=torch.Generator().manual_seed(0)).to(outputs.device)]

    return lambda *inputs: mapped(wrong, predict(*inputs))


def _emptied(predict: Predict) -> Predict:
    """Predicts zeros."""
    return lambda *inputs: mapped(torch.zeros_like, predict(*inputs))


def _check_repeatable(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Sequence[Tensor]) -> None:
    """Raises TaskError where a second run gives other outputs: no file could agree with such a network."""
    for once, again in zip(outputs, each_of(cast("Outputs", _run(module, inputs))), strict=True):
        _check_equal(once.double(), again.double())


def _check_equal(once: Tensor, again: Tensor) -> None:
    apart = float((again - once).abs().max()) if again.shape == once.shape else math.inf
    if not apart <= _REPEATED * float(once.abs().max()):
        raise TaskError(
            f"the network gives other outputs for the same inputs: two runs differ by {apart:.3g}.",
            where="network()",
            mend="take the randomness out of forward(): F.dropout(x, training=self.training), no torch.rand, and no "
            "state that a run changes.",
        )


def _run(module: nn.Module, inputs: tuple[Tensor, ...], mend: str = "") -> object:
    try:
        with torch.no_grad():
            return module(*inputs)
    except TaskError:
        raise
    except (Exception, SystemExit) as error:
        shapes = ", ".join(str(tuple(value.shape)) for value in inputs)
        raise TaskError(
            f"the network does not take calibrate()'s inputs of shape {shapes}: {brief(error)}.",
            where="network()",
            mend=mend or "let calibrate() yield what forward() takes (batch first), or fix the network.",
        ) from error
