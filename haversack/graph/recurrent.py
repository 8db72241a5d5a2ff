"""Recurrent layers of a folded graph: LSTM, GRU and plain RNN, whose matrices can be integers.

They compute on real numbers, or, an LSTM, on integers: what it reads and its state are then rounded as they come. Step
by step any of them does so, where its inputs are to be rounded as they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from haversack.graph.ops import Trait, traits_of
from haversack.graph.trace import arguments_of

ROUNDS = "rounds_step_by_step"
"""In the meta of a layer that computes on real numbers where it is one operation, and else on integers."""


@dataclass(frozen=True, eq=False)
class Recurrent:
    """A recurrent layer, and the names of its matrices (rows of all gates, inputs), layer by layer."""

    node: fx.Node
    weights: tuple[str, ...]

    @property
    def reads(self) -> str:
        """The name of the value that it reads."""
        return cast("fx.Node", self.node.args[0]).name

    @property
    def computes_integers(self) -> bool:
        """Whether a runtime has a form of it, as a whole, that multiplies integers."""
        return self.node.target is torch.ops.aten.lstm.input


def recurrent_at(node: fx.Node) -> Recurrent | None:
    """The recurrent layer that this node is; None where it is another operation, or one whose weights are computed."""
    if not traits_of(node) & Trait.RECURRENT:
        return None
    given = cast("list[fx.Node]", arguments_of(node)["params"])
    if any(each.op != "get_attr" for each in given):
        return None
    return Recurrent(node, tuple(str(each.target) for each in given if each.meta["val"].dim() == 2))


def rounds_step_by_step(node: fx.Node) -> bool:
    """Whether what it reads, and its state, are rounded as they come where it is written step by step."""
    return node.target is torch.ops.haversack.lstm_as_it_comes.default or bool(node.meta.get(ROUNDS))


def recurrents(graph: fx.Graph) -> Iterator[Recurrent]:
    """The recurrent layers whose weights the graph holds, in order."""
    return (found for node in graph.nodes if (found := recurrent_at(node)))


def lstm_as_it_comes(  # noqa: PLR0913 - as torch's own operation has it
    values: Tensor,
    states: list[Tensor],
    weights: list[Tensor],
    has_biases: bool,  # noqa: FBT001
    num_layers: int,
    dropout: float,
    train: bool,  # noqa: FBT001
    bidirectional: bool,  # noqa: FBT001
    batch_first: bool,  # noqa: FBT001
) -> tuple[Tensor, Tensor, Tensor]:
    """The LSTM of torch, but that products read what each layer reads, and its state at each step, rounded to 8 bits.

    Each has the step with which 256 integers span it and zero, over the whole batch, as `DynamicQuantizeLSTM` has it.
    """
    del dropout, train  # it is only for inference
    count, directions = 4 if has_biases else 2, 1 + bidirectional
    time = 1 if batch_first else 0
    lasts: list[tuple[Tensor, Tensor]] = []
    for _ in range(num_layers):
        read, sides = rounded_as_it_comes(values), []
        for direction in range(directions):
            place = len(lasts)
            given = weights[place * count : (place + 1) * count]
            steps = [*read.unbind(time)][:: -1 if direction else 1]
            outputs, last = _one_direction(steps, (states[0][place], states[1][place]), given)
            sides.append(torch.stack(outputs[:: -1 if direction else 1], time))
            lasts.append(last)
        values = torch.cat(sides, -1)
    hidden, cells = zip(*lasts, strict=True)
    return values, torch.stack(hidden), torch.stack(cells)


def _one_direction(
    steps: list[Tensor], state: tuple[Tensor, Tensor], given: list[Tensor]
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The outputs of each step, and the last state."""
    hidden, cell = state
    inner, recurrent, *biases = given
    outputs = []
    for step in steps:
        gates = step @ inner.t() + rounded_as_it_comes(hidden) @ recurrent.t() + sum(biases)
        taken, kept, new, shown = gates.chunk(4, -1)
        cell = kept.sigmoid() * cell + taken.sigmoid() * new.tanh()
        hidden = shown.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return outputs, (hidden, cell)


def rounded_as_it_comes(value: Tensor) -> Tensor:
    """The value on the 256 integers that span it and zero."""
    low, high = value.min().clamp_max(0), value.max().clamp_min(0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round()
    return ((value / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def rounded_rows(value: Tensor) -> Tensor:
    """The value, each row of its last dimension on the 256 integers that span it and zero."""
    low, high = value.amin(-1, keepdim=True).clamp_max(0), value.amax(-1, keepdim=True).clamp_min(0)
    scale = (high - low) / 255
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round()
    return ((value / scale).round() + zero).clamp(0, 255).sub(zero) * scale


LIBRARY = torch.library.Library("haversack", "DEF")
LIBRARY.define(
    "lstm_as_it_comes(Tensor input, Tensor[] hx, Tensor[] params, bool has_biases, int num_layers, float dropout, "
    "bool train, bool bidirectional, bool batch_first) -> (Tensor, Tensor, Tensor)"
)
LIBRARY.impl("lstm_as_it_comes", lstm_as_it_comes, "CompositeImplicitAutograd")
LIBRARY.define("rounded_rows(Tensor value) -> Tensor")
LIBRARY.impl("rounded_rows", rounded_rows, "CompositeImplicitAutograd")
ROUNDED_ROWS = torch.ops.haversack.rounded_rows.default
