"""Processes: where a network trains, and how several train it together. The only file that needs accelerate."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor, nn

from haversack.task import Batch


@dataclass(frozen=True)
class Processes:
    """The process that this is, of how many, and the device that it computes on.

    All processes draw the same batches, each computes the loss of its rows of them, and the gradients are summed, so
    that all take the same steps and end with the same weights. A sum over samples is therefore the same as in one
    process, within rounding. What relates the samples of a batch to each other sees those of its own process only:
    batch norm's statistics while training, and the relations among samples that a teacher is imitated in.
    """

    index: int
    count: int
    device: torch.device

    def part(self, batch: Batch) -> Batch:
        """The rows of a batch that this process learns from, on its device; there may be none."""
        if isinstance(batch, Tensor):
            return self._rows(batch)
        moved = [tuple(map(self._rows, each)) if isinstance(each, tuple | list) else self._rows(each) for each in batch]
        return tuple(moved)  # type: ignore[return-value]

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Sums the gradients over all processes, in place; returns the sum of the losses.

        A parameter that only others have a gradient for gets theirs; one that nobody has any for stays without.
        """
        if self.count == 1:
            return loss
        trained = [each for each in parameters if each.requires_grad]
        ours = [torch.zeros_like(each) if each.grad is None else each.grad for each in trained]
        known = torch.tensor([loss, *(float(each.grad is not None) for each in trained)], device=self.device)
        total = reduce(torch.cat([known, *(each.flatten() for each in ours)]), reduction="sum")
        sums = total[len(known) :].split([each.numel() for each in trained])
        for parameter, is_known, values in zip(trained, total[1 : len(known)].tolist(), sums, strict=True):
            parameter.grad = torch.empty_like(parameter).copy_(values.view(parameter.shape)) if is_known else None
        return float(total[0])

    def mean(self, value: float) -> float:
        """The mean of each process's value, so that all go by the same."""
        if self.count == 1:
            return value
        return float(reduce(torch.tensor(value, dtype=torch.float64, device=self.device), reduction="mean"))

    @torch.no_grad()
    def merge(self, tensors: Mapping[str, Tensor]) -> None:
        """Makes the statistics of all processes one, in place: fractions are averaged, of whole numbers the largest."""
        for tensor in tensors.values() if self.count > 1 else ():
            fractions = tensor.is_floating_point()
            ours = tensor if fractions else tensor.long()
            tensor.copy_(reduce(ours, reduction="mean" if fractions else "max"))

    @torch.no_grad()
    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the tensors of the first."""
        for tensor in tensors if self.count > 1 else ():
            tensor.copy_(broadcast(tensor.contiguous()))

    def _rows(self, tensor: Tensor) -> Tensor:
        return (tensor if self.count == 1 else tensor[self.index :: self.count]).to(self.device)


def these_processes() -> Processes:
    """The processes that `torchrun` or `accelerate launch` started, or this one; on the accelerator where there is one.

    `ACCELERATE_USE_CPU=1` leaves an accelerator alone.
    """
    on_cpu = not torch.accelerator.is_available() or os.environ.get("ACCELERATE_USE_CPU", "0").lower() in ("1", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells how many threads it chose
        state = PartialState(cpu=on_cpu)
    return Processes(state.process_index, state.num_processes, state.device)
