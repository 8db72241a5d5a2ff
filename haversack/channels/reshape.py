"""How reshapes carry channels along: dimensions are cut into the factors that both shapes are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import nn

from haversack.channels.book import ODD_BATCH, Atoms, ChannelOperation, Dims, same, sizes

Spans = dict[int, list[int]]


@dataclass(frozen=True)
class _Block:
    """Neighbouring dimensions that hold the same elements before and after, as the factors that both are made of."""

    factors: Sequence[int]
    before: Spans
    after: Spans
    """The factors of each dimension."""
    tracked: Mapping[int, Atoms]
    """The channels of dimensions before."""

    @property
    def split(self) -> list[list[int]]:
        """The factors of dimensions with channels that have several."""
        return [self.before[dim] for dim in self.tracked if len(self.before[dim]) > 1]


def reshape(operation: ChannelOperation) -> Dims:
    """Merged dimensions repeat their channels; of a split one, such as heads and their size, one factor may shrink.

    Which factor follows when channels go, and whether sizes that stand in the graph do, hangs on the code: each way to
    read it is an assumption, which a trial has to hold (see `channel_trial`).
    """
    after = sizes(operation.node)
    said = _spelled(operation, len(after))
    result: list[Atoms | None] = [None] * len(after)
    blocks = list(_tracked_blocks(operation, after))
    ways = [_readings(operation, block, span, said) for block in blocks for span in block.split]
    chosen: int | None = 0
    if ways or any(isinstance(said[dim], int) and said[dim] != -1 for block in blocks for dim in block.after):
        every = np.concatenate([atoms for block in blocks for atoms in block.tracked.values()])
        chosen = operation.reading(every, max((len(each) for each in ways), default=1))
    for block in blocks if chosen is not None else ():
        carried = dict(_carried(operation, block, chosen or 0, said))
        for dim, span in block.after.items():
            result[dim] = _merged(operation, block, span, carried)
    return tuple(result)


def _tracked_blocks(operation: ChannelOperation, after: tuple[int, ...]) -> Iterator[_Block]:
    """The blocks with channels, but for those whose shapes cut across each other, where all must stay."""
    before, dims = sizes(operation.tensors()[0]), same(operation)
    for ours, theirs in _blocks(before, after):
        tracked = {dim: atoms for dim in ours if (atoms := dims[dim]) is not None}
        factors = _factors([before[dim] for dim in ours], [after[dim] for dim in theirs])
        if tracked and factors:
            yield _Block(factors, _spans(factors, before, ours), _spans(factors, after, theirs), tracked)
        for atoms in () if factors else tracked.values():
            operation.book.pin(atoms, f"cut across: {operation.why}")


def _spelled(operation: ChannelOperation, rank: int) -> list[object]:
    """What the code gives as the new sizes: -1 is whatever is left."""
    said = operation.argument("size", operation.argument("shape"))
    return list(said) if isinstance(said, Sequence) and operation.name != "unflatten" else [-1] * rank


def _carried(
    operation: ChannelOperation, block: _Block, chosen: int, said: Sequence[object]
) -> Iterator[tuple[int, Atoms]]:
    """Which factor each dimension's channels run along; the others repeat them."""
    for dim, atoms in block.tracked.items():
        span = block.before[dim]
        if len(span) == 1:
            yield span[0], atoms
            continue
        readings = _readings(operation, block, span, said)
        factor, tied = readings[min(chosen, len(readings) - 1)]
        if tied and not _tie(operation, atoms):
            operation.book.pin(atoms, f"the code spells the size: {operation.why}")
        grid = np.moveaxis(atoms.reshape([block.factors[each] for each in span]), span.index(factor), -1)
        yield factor, operation.book.merge(grid.reshape(-1, block.factors[factor]))


def _readings(
    operation: ChannelOperation, block: _Block, span: Sequence[int], said: Sequence[object]
) -> list[tuple[int, bool]]:
    """The factors that may shrink, likeliest first, and whether the width that is split follows its layer's input."""
    left_over = [factor for dim, its in block.after.items() if said[dim] == -1 for factor in its if factor in span]
    if operation.within(nn.MultiheadAttention):
        return [(span[-1], True)]
    ranked = [*left_over[-1:], *(factor for factor in reversed(span) if factor not in left_over[-1:])]
    return [(ranked[0], False), (span[-1], True), *((factor, False) for factor in ranked[1:])]


def _tie(operation: ChannelOperation, atoms: Atoms) -> bool:
    """Unites the rows of the linear layer behind `atoms` with its columns: the code takes one width for the other."""
    rows, columns = operation.book.columns.get(int(atoms[0]), (None, None))
    if rows is None or columns is None or len(rows) % len(columns):
        return False
    for part in rows.reshape(-1, len(columns)):
        operation.book.unite(columns, part, operation.why)
    return True


def _merged(
    operation: ChannelOperation, block: _Block, span: Sequence[int], carried: Mapping[int, Atoms]
) -> Atoms | None:
    """The channels of a new dimension, at each place of the factors that it is made of."""
    found = [factor for factor in span if factor in carried]
    if len(found) > 1:
        for factor in found:
            operation.book.pin(carried[factor], f"merged with other channels: {operation.why}")
    if not found:
        return None
    return _spread(carried[found[0]], [block.factors[factor] for factor in span], span.index(found[0]))


def _spread(atoms: Atoms, shape: list[int], axis: int) -> Atoms | None:
    """Atoms of one factor at each place of the flattened block; none where the batch is part of it."""
    if any(size % ODD_BATCH == 0 for size in shape):
        return None
    column = atoms.reshape([-1 if dim == axis else 1 for dim in range(len(shape))])
    return np.broadcast_to(column, shape).reshape(-1)


def _factors(before: list[int], after: list[int]) -> list[int]:
    """The common factors of two shapes, outermost first; none where they cut across each other."""
    ends = sorted({math.prod(shape[place:]) for shape in (before, after) for place in range(len(shape) + 1)})
    if any(high % low for low, high in pairwise(ends)):
        return []
    return [high // low for low, high in pairwise(ends)][::-1]


def _spans(factors: Sequence[int], shape: Sequence[int], dims: Sequence[int]) -> Spans:
    spans: Spans = {}
    place = 0
    for dim in dims:
        start, product = place, 1
        while product < shape[dim]:
            product *= factors[place]
            place += 1
        spans[dim] = list(range(start, place))
    return spans


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Runs of dimensions with equal products, those of size 1 left out."""
    ours = [dim for dim, size in enumerate(before) if size != 1]
    theirs = [dim for dim, size in enumerate(after) if size != 1]
    while ours and theirs:
        left, right = [ours.pop(0)], [theirs.pop(0)]
        while (a := math.prod(before[d] for d in left)) != (b := math.prod(after[d] for d in right)):
            (left if a < b else right).append((ours if a < b else theirs).pop(0))
        yield left, right
