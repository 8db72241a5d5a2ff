"""Imitation: replacements learn, from calibration inputs alone, to compute what the layers before them did."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from haversack.graph.observe import Batches, joined
from haversack.model import Model
from haversack.numerics.imitate import BATCH, Chunk, chunks
from haversack.progress import track

_RATE, _CHECKED = 1e-3, 128
_TINY = 1e-12


def block_by_block(  # noqa: PLR0913 - what goes in, and for how long
    small: Model, original: nn.Module, paths: Sequence[str], batches: Batches, *, passes: int, seed: int
) -> Model:
    """`small` after `passes` over the inputs; never further from `original` than before.

    The loss is the mean squared difference of what the modules at `paths` give in both networks, relative to its own
    mean square, averaged over the modules: the blocks' outputs are the hints (Romero et al. 2015), and each block reads
    what the blocks before it make of the inputs. Batch norms keep their statistics meanwhile; images are also shown
    mirrored and shifted.
    """
    if not passes:
        return small
    inputs, learner = joined(batches), copy.deepcopy(small.module).eval()
    checked = tuple(each[:_CHECKED] for each in inputs)
    before = _error(learner, original, paths, checked)
    optimizer = torch.optim.Adam([each for each in learner.parameters() if each.requires_grad], lr=_RATE)
    steps = passes * -(-len(inputs[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    random = torch.Generator().manual_seed(seed)
    for chunk in track(chunks(inputs, passes, random), "imitating block by block", steps):
        loss = _distance(learner, original, paths, chunk)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad(set_to_none=True)
    return small.with_module(learner) if _error(learner, original, paths, checked) <= before else small


@torch.no_grad()
def _error(learner: nn.Module, original: nn.Module, paths: Sequence[str], chunk: Chunk) -> float:
    return float(_distance(learner, original, paths, chunk))


def _distance(learner: nn.Module, original: nn.Module, paths: Sequence[str], chunk: Chunk) -> Tensor:
    with torch.no_grad():
        wanted = _outputs(original, paths, chunk)
    found = _outputs(learner, paths, chunk)
    pairs = zip(found, wanted, strict=True)
    return torch.stack(
        [(ours - theirs).square().mean() / (theirs.square().mean() + _TINY) for ours, theirs in pairs]
    ).mean()


def _outputs(network: nn.Module, paths: Sequence[str], chunk: Chunk) -> list[Tensor]:
    """What the modules give on those inputs, in the order in which they run."""
    with _kept(network, paths) as found:
        network(*chunk)
    return found


@contextmanager
def _kept(network: nn.Module, paths: Sequence[str]) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: Tensor) -> None:
        found.append(output)

    handles = [network.get_submodule(path).register_forward_hook(keep) for path in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
