"""Imitation: replacements learn, from calibration inputs alone, to compute what the layers before them did."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from haversack.finetune.pairs import results_of
from haversack.graph.observe import Batches, joined
from haversack.model import Model
from haversack.numerics.descent import Chunk, descend, far

_RATE = 1e-3


def block_by_block(  # noqa: PLR0913 - what goes in, and for how long
    small: Model, original: nn.Module, paths: Sequence[str], batches: Batches, *, passes: int, seed: int
) -> Model:
    """`small` after `passes` over the inputs; never further from `original` than before.

    The loss is the mean squared difference of what the modules at `paths` give in both networks, relative to its own
    mean square, averaged over the modules: the blocks' outputs are the hints (Romero et al. 2015), and each block reads
    what the blocks before it make of the inputs. Batch norms keep their statistics meanwhile; images are also shown
    mirrored and shifted.
    """
    learner = copy.deepcopy(small.module).eval()
    parameters = [each for each in learner.parameters() if each.requires_grad]

    def loss(chunk: Chunk) -> Tensor:
        with torch.no_grad():
            wanted = _outputs(original, paths, chunk)
        pairs = zip(_outputs(learner, paths, chunk), wanted, strict=True)
        return torch.stack([far(*pair) for pair in pairs]).mean()

    what = "imitating block by block"
    nearer = descend(parameters, joined(batches), loss, rate=_RATE, passes=passes, seed=seed, what=what)
    return small.with_module(learner) if nearer else small


def _outputs(network: nn.Module, paths: Sequence[str], chunk: Chunk) -> list[Tensor]:
    """What the modules give on those inputs."""
    with results_of(network, paths) as found:
        network(*chunk)
    return [found[path] for path in paths]
