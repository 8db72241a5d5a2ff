"""Imitate: a changed network learns, from calibration inputs alone, to compute what the original does on the way.

No labels: the values that flow from block to block are the target, so that a few hundred inputs hold millions of
numbers to learn from, where their outputs alone would be learned by heart (hints: Romero et al. 2015; few inputs:
Bai et al. 2020, Wang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from haversack.graph.inference import inference, tensor_of
from haversack.graph.norms import settled_to_train
from haversack.graph.observe import Batches, joined
from haversack.graph.settle import settleable
from haversack.model import Edits, Model
from haversack.numerics.blocks import Block, Sizes, blocks, run, sizes_of
from haversack.progress import say, track

BATCH = 50
"""Samples a step."""
_RATE, _CHECKED = 3e-4, 128
_TINY = 1e-12

Chunk = tuple[Tensor, ...]
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
        say("the pruned network's blocks are not the original's: it does not imitate them.")
        return small
    inputs = joined(batches)
    learned = _learned(pair, inputs, passes, torch.Generator().manual_seed(seed))
    if learned is None:
        return small
    return settled_to_train(small, learned, batches)


@dataclass(frozen=True)
class _Network:
    """A folded network in blocks."""

    blocks: tuple[Block, ...]
    tensors: Tensors
    graph: fx.GraphModule

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
    theirs = theirs.float()
    return (ours.float() - theirs).square().mean() / (theirs.square().mean() + _TINY)


def _pair(small: Model, original: Model, edits: Edits) -> _Pair | None:
    ours, theirs = _network(small), _network(original)
    if [_writes(each) for each in ours.blocks] != [_writes(each) for each in theirs.blocks]:
        return None
    rows = tuple(_rows(block, edits) for block in ours.blocks)
    return _Pair(ours, theirs, rows, settleable(small, ours.graph) & ours.tensors.keys(), small.sparse)


def _network(model: Model) -> _Network:
    network = inference(model)
    names = (str(node.target) for node in network.graph.find_nodes(op="get_attr"))
    tensors = {name: tensor_of(network, name).detach() for name in names}
    return _Network(blocks(network, _kernels(tensors)), tensors, network)


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


def _learned(pair: _Pair, inputs: Chunk, passes: int, random: torch.Generator) -> dict[str, Tensor] | None:
    parts = {name: pair.small.tensors[name].clone().requires_grad_() for name in sorted(pair.learn)}
    checked = tuple(each[:_CHECKED] for each in inputs)
    before = _error(pair, checked, pair.small.tensors)
    optimizer = torch.optim.Adam(parts.values(), lr=_RATE)
    steps = passes * -(-len(inputs[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    sizes: dict[int, tuple[Sizes, Sizes]] = {}
    for chunk in track(chunks(inputs, passes, random), "imitating", steps):
        count = len(chunk[0])
        sizes[count] = sizes.get(count) or _sizes(pair, chunk)
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):  # noqa: SLF001
            loss = pair.loss(chunk, {**pair.small.tensors, **parts}, sizes[count])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for name in pair.sparse & parts.keys():
            slope = parts[name].grad
            if slope is not None:
                slope *= pair.small.tensors[name] != 0
        optimizer.step()
        schedule.step()
    learned = {name: part.detach() for name, part in parts.items()}
    return learned if _error(pair, checked, {**pair.small.tensors, **learned}) <= before else None


@torch.no_grad()
def _error(pair: _Pair, inputs: Chunk, tensors: Tensors) -> float:
    return float(pair.loss(inputs, tensors, _sizes(pair, inputs)))


def _sizes(pair: _Pair, chunk: Chunk) -> tuple[Sizes, Sizes]:
    small, original = (sizes_of(each.graph, chunk, each.tensors) for each in (pair.small, pair.original))
    return small, original


def chunks(inputs: Chunk, passes: int, random: torch.Generator) -> Iterator[Chunk]:
    """All samples in random order, over and over, images mirrored and shifted."""
    for _ in range(passes):
        for some in torch.randperm(len(inputs[0]), generator=random).split(BATCH):
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
