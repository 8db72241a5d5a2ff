"""How recurrent layers tie channels: a hidden unit goes with its row of every gate and with what reads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

from haversack.channels.book import Atoms, ChannelOperation, Dims, Value, unknown


def _recurrent(gates: int) -> Callable[[ChannelOperation], Value]:
    def rule(operation: ChannelOperation) -> Value:
        # torch has one hidden size for all layers and both directions, so all of them lose the same units.
        x, hidden = operation.dims("input"), None
        if x is None or operation.argument("params") is None or _projected(operation):
            return unknown(operation)
        directions = 2 if operation.argument("bidirectional") else 1
        weights = _by_direction(operation)
        into = x[-1]
        for layer in range(0, len(weights), directions):
            units = [_units(operation, gates, into, each) for each in weights[layer : layer + directions]]
            for each in units:
                if hidden is None:
                    hidden = each
                else:
                    operation.book.unite(hidden, each, operation.why)
            into = np.concatenate(units)
        _states(operation, hidden)
        if into is not None:
            operation.book.produced.append((into, operation.layer))
        last: Dims = (None, None, hidden)
        return [(*x[:-1], into), *(last for _ in operation.node.meta["val"][1:])]

    return rule


def _projected(operation: ChannelOperation) -> bool:
    """Whether an LSTM's outputs are narrower than its state (Sak et al. 2014), or no layer of torch runs it."""
    per_direction = 4 if operation.argument("has_biases") else 2
    directions = 2 if operation.argument("bidirectional") else 1
    count: int = operation.argument("num_layers") * directions * per_direction
    return len(operation.argument("params")) != count or not operation.within(nn.RNNBase)


def _by_direction(operation: ChannelOperation) -> list[list[Dims]]:
    """The weights of each layer and direction: input, recurrent and both biases."""
    count, given = 4 if operation.argument("has_biases") else 2, operation.argument("params")
    return [[operation.of(node) for node in given[start : start + count]] for start in range(0, len(given), count)]


def _units(operation: ChannelOperation, gates: int, into: Atoms | None, weights: list[Dims]) -> Atoms:
    """The hidden units of one layer and direction, after all that hangs on them was united."""
    book, units = operation.book, weights[1][1]
    if units is None:
        raise ValueError
    book.contract(into, weights[0][1], operation.why)
    book.read.append(units)
    for rows in (weights[0][0], weights[1][0], *(bias[0] for bias in weights[2:])):
        book.unite(units, book.interleave(rows, gates), operation.why)
    return units


def _cell(gates: int) -> Callable[[ChannelOperation], Value]:
    def rule(operation: ChannelOperation) -> Value:
        given = (operation.dims(name) for name in ("w_ih", "w_hh", "b_ih", "b_hh"))
        units = _units(operation, gates, (operation.dims("input") or ())[-1], [each for each in given if each])
        _states(operation, units)
        operation.book.produced.append((units, operation.layer))
        many = isinstance(operation.node.meta["val"], tuple | list)
        return [(None, units) for _ in operation.node.meta["val"]] if many else (None, units)

    return rule


def _states(operation: ChannelOperation, hidden: Atoms | None) -> None:
    """What the layer starts from: zeros follow where their size is read off the layer."""
    given = operation.argument("hx")
    for state in given if isinstance(given, list | tuple) else [given]:
        if str(state.target).partition(".")[2].startswith(("zeros", "new_zeros")):
            operation.reading(hidden)
        else:
            operation.book.unite(hidden, operation.of(state)[-1], operation.why)


RECURRENT_RULES: dict[str, Callable[[ChannelOperation], Value]] = {
    "lstm": _recurrent(4),
    "gru": _recurrent(3),
    "rnn_tanh": _recurrent(1),
    "rnn_relu": _recurrent(1),
    "lstm_cell": _cell(4),
    "gru_cell": _cell(3),
    "rnn_tanh_cell": _cell(1),
    "rnn_relu_cell": _cell(1),
}
