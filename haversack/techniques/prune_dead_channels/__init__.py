"""Channels that hold the same numbers for every input are removed; the outputs stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from torch import nn

from haversack.channels.group import edits_for
from haversack.device import Device
from haversack.errors import NothingChangedError, SurgeryError
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.progress import say
from haversack.recipe import Stage, Step
from haversack.settings import AtLeast, Portion, Positive, checked
from haversack.surgery.edit import edit
from haversack.task import Task
from haversack.techniques.prune_dead_channels.absorb import absorb, with_new_biases
from haversack.techniques.prune_dead_channels.constants import seen
from haversack.techniques.prune_dead_channels.reads import Reads, channel_reads
from haversack.techniques.prune_dead_channels.search import Dead, find_dead


@dataclass(frozen=True)
class PruneDeadChannels(Step):
    """The network without the channels that no input moves and those that nothing reads, computing the same outputs.

    Networks trained with weight decay hold filters that have faded to nothing, and units whose ReLU never opens (Lu et
    al. 2020). Which do is proven by interval arithmetic from the weights alone, not watched on data: for every input of
    magnitude up to `input_limit` (or ten times the example's, if that is more), nothing that a layer reads of a removed
    channel is off by more than `tolerance` from what its bias, or a channel that stays, holds in its place. Filters of
    exact zeros are proven for every input. Layers keep a multiple of `multiple` channels, filled up with dead ones that
    nothing reads: ONNX Runtime runs MLPerf Tiny's visual wake words on AVX-512 in 1.05x of the time without all its
    dead channels, and in 0.65x in multiples of 16. No training, no data.
    """

    tolerance: Portion = 1e-6
    input_limit: Annotated[Positive, "the largest magnitude of your inputs"] = 1000.0
    multiple: Annotated[int, AtLeast(1)] = 1

    stage: ClassVar[Stage] = Stage.STRUCTURE
    strength: ClassVar[str] = "tolerance"

    def __post_init__(self) -> None:
        checked(self)

    def apply(self, model: Model, task: Task) -> Model:  # noqa: ARG002 - needs no data
        """The smaller model with the same outputs; raises NothingChangedError where no channel is dead."""
        reads, dead = self._find(model)
        kept = dead.kept(reads, self.multiple)
        if not _any_gone(reads, kept):
            raise NothingChangedError(
                _why_nothing(dead, self.multiple),
                mend="leave the step out; to remove channels that matter little, use prune_channels.",
            )
        whole, swaps = absorb(model.module, dead)
        slices = with_new_biases(edits_for(whole, reads.groups, kept), swaps)
        small = model.with_module(edit(whole, slices), swaps.then(slices))
        _check_equal(small, model)
        say(_told(reads, kept))
        return small

    @classmethod
    def options(cls, model: Model, device: Device) -> Iterable[Self]:
        """This step, where enough channels are dead."""
        step = cls(multiple=device.channel_multiple)
        if model.grids:
            return
        reads, dead = step._find(model)
        if _any_gone(reads, dead.kept(reads, step.multiple)):
            yield step

    def _find(self, model: Model) -> tuple[Reads, Dead]:
        read = trace(model.module, model.example)
        reads = channel_reads(read, model.module)
        limit = max(self.input_limit, *(10 * float(each.abs().max()) for each in model.example))
        known = seen(read, {each.node for each in reads.reads}, limit)
        return reads, find_dead(reads, known, model.module, self.tolerance)


def _any_gone(reads: Reads, kept: list[list[int]]) -> bool:
    return any(len(stay) < group.size for group, stay in zip(reads.groups, kept, strict=True))


def _why_nothing(dead: Dead, multiple: int) -> str:
    if dead.gone:
        return f"{len(dead.gone)} channels are dead, but no layer can lose any and keep a multiple of {multiple}."
    return "no channel is dead: every one that could go moves with the input, and some layer reads it."


def _told(reads: Reads, kept: list[list[int]]) -> str:
    lost = [
        f"{group.size - len(stay)} of {group.size} of {group.name}"
        for group, stay in zip(reads.groups, kept, strict=True)
        if len(stay) < group.size
    ]
    return f"dead channels removed: {', '.join(lost)}"


def _check_equal(small: Model, model: Model) -> None:
    """Code that counts channels in a way that the graph does not show fails here, not at the user's."""
    inputs = [model.example, tuple(_noise(each) for each in model.example)]
    with torch.no_grad():
        wanted = [each for given in inputs for each in _outputs(model.module, given)]
        try:
            found = [each for given in inputs for each in _outputs(small.module, given)]
        except Exception as error:
            raise SurgeryError(
                f"the network without its dead channels does not run: {type(error).__name__}: {error}.",
                mend="let forward() read channel counts off its tensors instead of spelling them.",
            ) from error
    for ours, theirs in zip(found, wanted, strict=True):
        scale = max(float(theirs.abs().max()), 1e-3) if theirs.numel() else 1.0
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=0, atol=1e-4 * scale, equal_nan=True):
            raise SurgeryError(
                "without its dead channels the network computes something else.",
                mend="look for code in forward() whose result depends on the number of channels.",
            )


def _noise(example: torch.Tensor) -> torch.Tensor:
    """Random numbers of the example's magnitude; what counts or indexes stays as it is."""
    if not example.is_floating_point():
        return example
    noise = torch.randn(example.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    return noise.to(example) * example.abs().max()


def _outputs(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    outputs = module(*inputs)
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
