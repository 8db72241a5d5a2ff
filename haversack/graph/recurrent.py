"""Recurrent layers of a folded graph: LSTM, GRU and plain RNN, whose matrices can be integers while they compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from torch import fx

from haversack.graph.ops import Trait, traits_of
from haversack.graph.trace import arguments_of


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A recurrent layer, and the names of its matrices (rows of all gates, inputs), layer by layer."""

    node: fx.Node
    weights: tuple[str, ...]


def recurrent_at(node: fx.Node) -> Recurrent | None:
    """The recurrent layer that this node is; None where it is another operation, or one whose weights are computed."""
    if not traits_of(node) & Trait.RECURRENT:
        return None
    given = cast("list[fx.Node]", arguments_of(node)["params"])
    if any(each.op != "get_attr" for each in given):
        return None
    return Recurrent(node, tuple(str(each.target) for each in given if each.meta["val"].dim() == 2))


def recurrents(graph: fx.Graph) -> Iterator[Recurrent]:
    """The recurrent layers whose weights the graph holds, in order."""
    return (found for node in graph.nodes if (found := recurrent_at(node)))
