"""Bytes: values that are an image's bytes in steps, so that the bytes are the integers of their grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.ops import Trait, traits_of
from haversack.grid import Grid

aten = torch.ops.aten
_HALF = 128


@dataclass(frozen=True, eq=False)
class Steps:
    """A value that is (byte - zero) * step of each byte of `source`."""

    source: fx.Node
    step: float = 1.0
    zero: int = 0

    @property
    def grid(self) -> Grid:
        """The grid whose integers the bytes are."""
        return Grid(8, False, (self.step,), (self.zero,))

    def like(self, grid: Grid) -> Grid:
        """The grid of the bytes in the format of `grid`: less 128 in signed ones; 16 bits keep theirs."""
        if grid.bits != 8:
            return grid
        return Grid(8, True, (self.step,), (self.zero - _HALF,)) if grid.signed else self.grid


def steps_at(node: object) -> Steps | None:
    """What the node is in steps of a byte: bytes made real, less a whole number, times a number; None for all else."""
    if not isinstance(node, fx.Node) or node.kwargs:
        return None
    value, *others = node.args or (None,)
    if traits_of(node) & Trait.CAST:
        return Steps(cast("fx.Node", value)) if _is_of(node, torch.float32) and _are_bytes(value) else None
    before = steps_at(value) if len(others) == 1 and isinstance(others[0], int | float) else None
    if before is None or before.step != 1:
        return None
    if node.target is aten.mul.Tensor and cast("float", others[0]) > 0:
        return replace(before, step=float(torch.tensor(others[0], dtype=torch.float32)))
    if node.target is aten.sub.Tensor and isinstance(others[0], int) and not before.zero and 0 < others[0] < 2 * _HALF:
        return replace(before, zero=others[0])
    return None


def in_steps(graph: fx.Graph) -> Iterator[tuple[fx.Node, Steps]]:
    """The values of the graph that are bytes in steps."""
    return ((node, steps) for node in graph.nodes if (steps := steps_at(node)) is not None)


def _are_bytes(value: object) -> bool:
    """Whether it is an input of bytes, as it comes or turned around."""
    if isinstance(value, fx.Node) and traits_of(value) & Trait.REARRANGE and value.args:
        return _are_bytes(value.args[0])
    return isinstance(value, fx.Node) and value.op == "placeholder" and _is_of(value, torch.uint8)


def _is_of(node: fx.Node, dtype: torch.dtype) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dtype == dtype
