"""Imitate: a changed network learns, from calibration inputs alone, to compute what the original does on the way.

No labels: the values that flow from block to block are the target, so that a few hundred inputs hold millions of
numbers to learn from, where their outputs alone would be learned by heart (hints: Romero et al. 2015; few inputs:
Bai et al. 2020, Wang et al. 2022).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from haversack.calibration.blocks import Block, Sizes, blocks, run, sizes_of
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.run import Batches, joined
from haversack.graph.write_back import written_back_to_train
from haversack.model import Edits, Model
from haversack.progress import note, track
from haversack.training.machine import mixed_precision
from haversack.training.pairs import results_of

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


_RATE = 3e-4

Tensors = Mapping[str, Tensor]


def imitating(  # noqa: PLR0913 - what goes in, and for how long
    small: Model, original: Model, edits: Edits, batches: Batches, *, passes: int, seed: int
) -> Model:
    """`small`, which `edits` made of `original`, after `passes` over the inputs; never further from it than before.

    The loss is the mean squared difference of each block's values, relative to their own mean square, averaged over the
    blocks; batch norms are folded, so that no statistics drift. Images are also shown mirrored and shifted. Where the
    two networks do not fall into the same blocks, nothing is learned and the listener hears so.
    """
    pair = _pair(small, original, edits)
    if pair is None:
        note("the pruned network's blocks are not the original's: it does not imitate them.")
        return small
    learned = _learned(pair, joined(batches), passes, seed)
    if learned is None:
        return small
    return written_back_to_train(small, pair.small.folded, learned, batches)


@dataclass(frozen=True)
class _Network:
    """A folded network in blocks."""

    blocks: tuple[Block, ...]
    folded: Folded

    @property
    def tensors(self) -> Tensors:
        """The weights and constants by name."""
        return self.folded.tensors

    def values(self, chunk: Chunk, tensors: Tensors, sizes: Sizes) -> Iterator[tuple[Any, ...]]:
        """What each block writes."""
        flowing: tuple[Any, ...] = chunk
        for block in self.blocks:
            flowing = run(block, flowing, tensors, sizes, rounded=False)
            yield flowing


@dataclass(frozen=True)
class _Pair:
    """The pruned network and the original, in the same blocks; `rows` are the channels that are left of each value."""

    small: _Network
    original: _Network
    rows: tuple[tuple[Tensor | None, ...], ...]
    learn: frozenset[str]
    sparse: frozenset[str]

    def loss(self, chunk: Chunk, tensors: Tensors, sizes: tuple[Sizes, Sizes]) -> Tensor:
        """How far the values are from the original's, averaged over the blocks."""
        with torch.no_grad():
            wanted = list(self.original.values(chunk, self.original.tensors, sizes[1]))
        found = self.small.values(chunk, tensors, sizes[0])
        parts = [
            _distance(ours, theirs, rows)
            for block in zip(found, wanted, self.rows, strict=True)
            for ours, theirs, rows in zip(*block, strict=True)
        ]
        return torch.stack([each for each in parts if each is not None]).mean()


def _distance(ours: Tensor, theirs: Tensor, rows: Tensor | None) -> Tensor | None:
    if rows is not None and ours.dim() == theirs.dim():
        # Channels are the last dimension of a linear or recurrent layer's values, and the second of a convolution's.
        # Where rows and channels are not one and the same, as those of gates and heads, no value is compared.
        narrower = [dim for dim in range(ours.dim()) if ours.shape[dim] != theirs.shape[dim]]
        if len(narrower) == 1 and len(rows) == ours.shape[narrower[0]] and int(rows[-1]) < theirs.shape[narrower[0]]:
            theirs = theirs.index_select(narrower[0], rows)
    if ours.shape != theirs.shape or not theirs.is_floating_point():
        return None
    return far(ours, theirs)


def _pair(small: Model, original: Model, edits: Edits) -> _Pair | None:
    ours, theirs = _network(small), _network(original)
    if [_writes(each) for each in ours.blocks] != [_writes(each) for each in theirs.blocks]:
        return None
    rows = tuple(_rows(block, edits) for block in ours.blocks)
    return _Pair(ours, theirs, rows, ours.folded.writable, small.sparse)


def _network(model: Model) -> _Network:
    folded = inference(model)
    return _Network(blocks(folded.graph, _kernels(folded.tensors)), folded)


def _kernels(tensors: Tensors) -> list[str]:
    return [name for name, tensor in tensors.items() if tensor.dim() > 1]


def _writes(block: Block) -> list[str]:
    return [node.name for node in block.writes]


def _rows(block: Block, edits: Edits) -> tuple[Tensor | None, ...]:
    """For each value that the block writes: the channels that are left, or None where it is whole."""
    kept = edits.kept
    found: list[Tensor | None] = []
    for value in block.writes:
        source = _source(value)
        left = kept.get(source, {}).get(0) if source else None
        found.append(None if left is None else torch.tensor(left))
    return tuple(found)


def _source(value: fx.Node) -> str:
    """The name of the weight whose rows are the channels of a value, or ''."""
    seen = [value]
    for node in seen:
        weights = [each for each in node.all_input_nodes if each.op == "get_attr" and each.meta["val"].dim() > 1]
        if weights:
            return str(weights[0].target)
        seen += [each for each in node.all_input_nodes if each.op == "call_function" and each not in seen]
    return ""


def _learned(pair: _Pair, inputs: Chunk, passes: int, seed: int) -> dict[str, Tensor] | None:
    """The tensors that changed; None where the values are further from the original's with them."""
    parts = {name: pair.small.tensors[name].clone().requires_grad_() for name in sorted(pair.learn)}
    for name in pair.sparse & parts.keys():
        parts[name].register_hook(partial(torch.mul, pair.small.tensors[name] != 0))
    sizes: dict[int, tuple[Sizes, Sizes]] = {}

    def loss(chunk: Chunk) -> Tensor:
        count = len(chunk[0])
        sizes[count] = sizes.get(count) or _sizes(pair, chunk)
        return pair.loss(chunk, {**pair.small.tensors, **parts}, sizes[count])

    nearer = descend(
        [*parts.values()], inputs, loss, rate=_RATE, passes=passes, seed=seed, what="imitating", narrow=True
    )
    return {name: part.detach() for name, part in parts.items()} if nearer else None


def _sizes(pair: _Pair, chunk: Chunk) -> tuple[Sizes, Sizes]:
    small, original = (sizes_of(each.folded.graph, chunk, each.tensors) for each in (pair.small, pair.original))
    return small, original


_BLOCK_RATE = 1e-3


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
    nearer = descend(parameters, joined(batches), loss, rate=_BLOCK_RATE, passes=passes, seed=seed, what=what)
    return small.with_module(learner) if nearer else small


def _outputs(network: nn.Module, paths: Sequence[str], chunk: Chunk) -> list[Tensor]:
    """What the modules give on those inputs."""
    with results_of(network, paths) as found:
        network(*chunk)
    return [found[path] for path in paths]
