"""Descent: weights that learn from calibration inputs alone, which they see again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional as F

from haversack.finetune.precision import mixed_precision
from haversack.progress import track

Chunk = tuple[Tensor, ...]
_BATCH, _CHECKED = 50, 128
"""Samples a step, and those that tell whether anything was learned."""
_TINY = 1e-12


def descend(  # noqa: PLR0913 - what learns from what, and for how long
    parameters: Sequence[Tensor],
    inputs: Chunk,
    loss: Callable[[Chunk], Tensor],
    *,
    rate: float,
    passes: int,
    seed: int,
    what: str,
    narrow: bool = False,
) -> bool:
    """Whether the parameters changed, and the loss is no larger, after `passes` over the inputs.

    They change in place, by Adam, its rate falling to zero as a cosine. Images are shown mirrored and shifted. `what`
    names the progress bar. What is `narrow` learns in bfloat16 where the processor multiplies it.
    """
    if not parameters or not passes:
        return False
    checked = tuple(each[:_CHECKED] for each in inputs)
    before = _error(loss, checked)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    steps = passes * -(-len(inputs[0]) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for chunk in track(_chunks(inputs, passes, torch.Generator().manual_seed(seed)), what, steps):
        with mixed_precision("cpu") if narrow else nullcontext():
            found = loss(chunk)
        found.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return _error(loss, checked) <= before


def far(ours: Tensor, theirs: Tensor) -> Tensor:
    """The mean squared difference of two results, relative to the mean square of `theirs`; a scalar."""
    theirs = theirs.float()
    return (ours.float() - theirs).square().mean() / (theirs.square().mean() + _TINY)


@torch.no_grad()
def _error(loss: Callable[[Chunk], Tensor], inputs: Chunk) -> float:
    return float(loss(inputs))


def _chunks(inputs: Chunk, passes: int, random: torch.Generator) -> Iterator[Chunk]:
    """All samples in random order, over and over, images mirrored and shifted."""
    for _ in range(passes):
        for some in torch.randperm(len(inputs[0]), generator=random).split(_BATCH):
            yield tuple(_moved(each[some], random) for each in inputs)


def _moved(values: Tensor, random: torch.Generator) -> Tensor:
    if values.dim() != 4 or not values.is_floating_point():
        return values
    mirrored = torch.rand(len(values), generator=random) < 0.5
    values = torch.where(mirrored.view(-1, 1, 1, 1), values.flip(3), values)
    height, width = values.shape[2:]
    most = max(height, width) // 8
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=random).tolist()
    shifted = F.pad(values, [most] * 4)[:, :, down : down + height, right : right + width]
    return shifted.contiguous(memory_format=torch.channels_last)
