"""Call: one ATen operation on its way into the integer graph, its arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, fx

from haversack.graph.ops import Trait, moves, traits_of
from haversack.graph.recurrent import ROUNDED_ROWS
from haversack.grid import Grid, affine, symmetric
from haversack.integer.read.builder import Builder
from haversack.integer.read.ending import Ending, refused
from haversack.integer.read.placed import Constant, Order, Placed, Sizes, sizes_of

Made = Placed | Constant | list[Placed]


@dataclass(frozen=True)
class TorchCall:
    """An operation, its arguments with defaults filled in, and the graph that it is written to.

    `integer` says whether it is computed on integers; its result then lies on `ending.grid`.
    """

    node: fx.Node
    builder: Builder
    arguments: Mapping[str, Any]
    made: Mapping[fx.Node, Made]
    ending: Ending
    integer: bool

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.arguments[name]

    @property
    def first(self) -> Any:  # noqa: ANN401
        """The operation's first argument."""
        return next(iter(self.arguments.values()))

    @property
    def raw(self) -> Placed:
        """The first argument as it is stored, integers or real numbers; whole ones that are moved become real."""
        if traits_of(self.node) & Trait.MOVE and self.is_counted(self.first):
            return self.cast(self.counted(self.first))
        return self.stored(self.first)

    @property
    def x(self) -> Placed:
        """The first argument as this operation computes: integers, or real numbers."""
        return self.value(self.first)

    @property
    def sizes(self) -> Sizes:
        """The result's sizes."""
        return sizes_of(self.node.meta["val"])

    @property
    def grid(self) -> Grid | None:
        """The grid of the result, None for real numbers."""
        return self.ending.grid

    @property
    def rounds_as_it_comes(self) -> bool:
        """Whether it reads each row of its first argument on a grid that is worked out as that comes."""
        return isinstance(self.first, fx.Node) and self.first.target is ROUNDED_ROWS

    @property
    def bits(self) -> int:
        """Those of the integers that this operation reads or writes."""
        grid = self.grid or self.raw.grid
        return grid.bits if grid else 8

    def stored(self, argument: Any) -> Placed:  # noqa: ANN401
        """A value of the network as it is stored."""
        made = self.made.get(argument) if isinstance(argument, fx.Node) else None
        if isinstance(made, Placed) and made.counted and moves(self.node):
            return self.real_counted(argument)
        if not isinstance(made, Placed) or made.counted:
            self.refuse(f"with {argument} as an argument")
        return made

    def real_counted(self, argument: fx.Node) -> Placed:
        """Whole numbers that are given to the network, or were moved since, as real ones."""
        made = self.made.get(argument)
        if not isinstance(made, Placed):
            self.refuse(f"with {argument} as an argument")
        return self.builder.once("CAST", made, replace(made, counted=False)) if made.counted else made

    def is_counted(self, argument: fx.Node) -> bool:
        """Whether an argument is whole numbers that are given to the network."""
        made = self.made.get(argument)
        return isinstance(made, Placed) and made.counted

    def counted(self, argument: Any) -> Placed:  # noqa: ANN401
        """Whole numbers that are given to the network, in torch's order."""
        made = self.made.get(argument) if isinstance(argument, fx.Node) else None
        if not isinstance(made, Placed) or not made.counted:
            self.refuse(f"by {argument}, which the network computes")
        return made

    def cast(self, counted: Placed) -> Placed:
        """Whole numbers as real ones."""
        return self.builder.once("CAST", counted, replace(counted, counted=False))

    def value(self, argument: Any) -> Placed:  # noqa: ANN401
        """A value of the network as this operation computes."""
        placed = self.stored(argument)
        return placed if self.integer else self.builder.real(placed)

    def held(self, argument: fx.Node) -> Placed:
        """A value of the network as it is stored, or a constant as one, in real numbers."""
        constant = self.constant(argument)
        if constant is None:
            return self.stored(argument)
        sizes = sizes_of(argument.meta["val"])
        return Placed(self.builder.stored_real(constant), tuple(range(len(sizes))), sizes)

    def constant(self, argument: Any) -> Constant | None:  # noqa: ANN401
        """The constant behind an argument; None where the network computes it."""
        if isinstance(argument, bool | int | float):
            return Constant(torch.tensor(float(argument)))
        made = self.made.get(argument)
        return made if isinstance(made, Constant) else None

    def pair(self, name: str, dims: int) -> tuple[int, int]:
        """Height and width of an argument that is one number or one for each of `dims`; 1-D has a neutral height."""
        given = self[name]
        values = list(given) if isinstance(given, Sequence) else [given]
        values = values * dims if len(values) == 1 else values
        neutral = 0 if "padding" in name else 1
        return (neutral, int(values[0])) if dims == 1 else (int(values[0]), int(values[1]))

    def dims(self, name: str = "dim") -> list[int]:
        """Dimensions counted from the front; all of them where none is named."""
        rank, given = self.raw.rank, self[name]
        if given is None or given == []:
            return list(range(rank))
        return [dim % rank for dim in (given if isinstance(given, Sequence) else [given])]

    def result(self, like: Placed, *, order: Order | None = None, grid: Grid | None = None) -> Placed:
        """What this operation's result is: its sizes, in an order, on a grid."""
        return replace(like, order=like.order if order is None else order, sizes=self.sizes, grid=grid)

    def finish(self, kind: str, inputs: Sequence[str], result: Placed, **options: object) -> Placed:
        """The result of an operation that may write any grid and fuses the activation."""
        result = replace(result, grid=self.grid)
        return self.builder.emit(kind, inputs, result, activation=self.ending.activation, **options)

    def settle(self, placed: Placed) -> Placed:
        """A result moved to the grid it must have, and clamped."""
        if self.grid is not None:
            placed = self.builder.on_grid(placed, self.grid)
        if self.ending.activation == "NONE":
            return placed
        return self.builder.emit(self.ending.activation, (placed.name,), placed)

    def weight(self, constant: Constant) -> str:
        """A weight in the form in which this operation reads it."""
        return self.builder.stored(constant) if self.integer else self.builder.stored_real(constant)

    def number(self, numbers: Tensor) -> str:
        """Constant numbers in the form in which this operation reads them: real, or on a grid of their own."""
        if not self.integer:
            return self.builder.stored(Constant(numbers))
        if self.bits == 16:
            grid = symmetric(numbers.abs().amax(), axis=None, bits=16)
        else:
            grid = affine(float(numbers.min()), float(numbers.max()), signed=True)
        return self.builder.stored(Constant(grid.quantize(numbers), grid))

    def refuse(self, why: str = "") -> NoReturn:
        """Raises the error that names the operation and its layer."""
        raise refused(self.node, why)


@dataclass(frozen=True)
class Rule:
    """How an operation is written, and on integers of which widths it can be computed.

    `moves` says that it leaves numbers as they are, so that its result lies on the grid of what it reads.
    """

    write: Callable[[TorchCall], Made]
    bits: tuple[int, ...] = ()
    moves: bool = False


Table = Mapping[Any, Rule]
