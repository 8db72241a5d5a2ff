"""Placed: where a torch value stands in the integer graph, and how its dimensions lie there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from haversack.grid import Grid

# The torch dimension on each axis; None is an axis of size one that torch does not have.
Order = tuple[int | None, ...]


class Size(NamedTuple):
    """A dimension's size for a batch of one, and whether it grows with the batch."""

    number: int
    free: bool = False

    @property
    def is_one(self) -> bool:
        """Whether it is one whatever the batch."""
        return self.number == 1 and not self.free


Sizes = tuple[Size, ...]


@dataclass(frozen=True)
class Columns:
    """The last dimension holds a block that torch flattened and that lies here in another order.

    The block has `sizes` as it lies here; transposing it with `back` gives torch's order.
    """

    sizes: tuple[int, ...]
    back: tuple[int, ...]

    def indices(self) -> Tensor:
        """The torch column that each column here holds."""
        forth = tuple(int(axis) for axis in np.argsort(self.back))
        inside = [self.sizes[axis] for axis in self.back]
        return torch.arange(int(np.prod(inside))).view(inside).permute(forth).reshape(-1)


@dataclass(frozen=True)
class Placed:
    """A torch value of sizes `sizes` in the integer graph's value `name`, on `grid` or real (None).

    One that is `counted` holds whole numbers as they are, such as the places of words in a vocabulary.
    """

    name: str
    order: Order
    sizes: Sizes
    grid: Grid | None = None
    columns: Columns | None = None
    counted: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape here."""
        return tuple(1 if dim is None else self.sizes[dim].number for dim in self.order)

    @property
    def rank(self) -> int:
        """How many dimensions torch sees."""
        return len(self.sizes)

    def axis(self, dim: int) -> int:
        """The axis on which a torch dimension stands."""
        return self.order.index(dim % self.rank)

    def long(self) -> list[int]:
        """The torch dimensions that are longer than one, as they follow each other here."""
        return [dim for dim in self.order if dim is not None and not self.sizes[dim].is_one]

    def resized(self, dim: int, size: int) -> Self:
        """The same with another size of one dimension."""
        sizes = list(self.sizes)
        sizes[dim % self.rank] = Size(size, sizes[dim % self.rank].free)
        return replace(self, sizes=tuple(sizes))


@dataclass(frozen=True)
class Constant:
    """A tensor that the network holds: real numbers, or integers on a grid."""

    tensor: Tensor
    grid: Grid | None = None

    def permuted(self, *dims: int) -> Constant:
        """The same with dimensions in another order."""
        grid = self.grid
        if grid is not None and grid.axis is not None:
            grid = replace(grid, axis=dims.index(grid.axis))
        return Constant(self.tensor.permute(dims), grid)

    @property
    def real(self) -> Tensor:
        """The numbers that it stands for."""
        return self.tensor if self.grid is None else self.grid.dequantize(self.tensor)


def channels_last(rank: int) -> Order:
    """The order that convolutions compute in; a 1-D value gets a height of one."""
    return (0, None, 2, 1) if rank == 3 else (0, *range(2, rank), 1)


def sizes_of(value: Tensor) -> Sizes:
    """A traced tensor's sizes."""
    return tuple(_size(size) for size in value.shape)


def _size(size: Any) -> Size:  # noqa: ANN401 - an int or what torch.export calls a size
    if isinstance(size, int):
        return Size(size)
    expression = size.node.expr
    symbols = expression.free_symbols
    return Size(int(expression.subs(dict.fromkeys(symbols, 1))), bool(symbols))


class Group(NamedTuple):
    """Dimensions before and after a reshape that hold the same block of numbers; none is one long."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def groups(before: Sizes, after: Sizes) -> list[Group]:
    """The smallest blocks that a reshape takes apart or puts together; fewer where sizes do not add up."""
    return list(_groups(before, _long(before), after, _long(after)))


def _groups(before: Sizes, olds: list[int], after: Sizes, news: list[int]) -> Iterator[Group]:
    while olds and news:
        old, new = [olds.pop(0)], [news.pop(0)]
        while (ours := _product(before, old)) != (theirs := _product(after, new)):
            shorter, rest = (old, olds) if ours < theirs else (new, news)
            if not rest:
                return
            shorter.append(rest.pop(0))
        yield Group(tuple(old), tuple(new))


def _long(sizes: Sizes) -> list[int]:
    return [dim for dim, size in enumerate(sizes) if not size.is_one]


def _product(sizes: Sizes, dims: Sequence[int]) -> tuple[int, bool]:
    return int(np.prod([sizes[dim].number for dim in dims])), any(sizes[dim].free for dim in dims)
