"""Recurrent layers: LSTM, GRU and plain RNN, several layers deep and in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from haversack.runtimes.onnx.call import Call, Table, Values, shape_of

# Where ONNX has each gate in torch's order: torch's LSTM has input, forget, cell, output; its GRU reset, update, new.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


def recurrent(operation: str, **attributes: Any) -> Callable[[Call], Values]:  # noqa: ANN401
    """A function that writes a recurrent layer that starts from zeros: outputs, then the last states."""

    def written(call: Call) -> Values:
        states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
        if call["train"] or len(call.shape) != 3 or any(not _is_zeros(state) for state in states):
            raise call.unsupported("in training, without a batch, or with states to start from")
        graph, swap = call.graph, call["batch_first"]
        x = graph.node("Transpose", call.x, perm=[1, 0, 2]) if swap else call.x
        lasts: list[tuple[str, ...]] = []
        for layer in range(call["num_layers"]):
            x, *last = _layer(call, operation, layer, x, attributes)
            lasts.append(tuple(last))
        outputs = graph.node("Transpose", x, perm=[1, 0, 2]) if swap else x
        return outputs, *(graph.node("Concat", *each, axis=0) for each in zip(*lasts, strict=True))

    return written


def _is_zeros(state: fx.Node) -> bool:
    return str(state.target).startswith("aten.zeros")


def _layer(call: Call, operation: str, layer: int, x: str, attributes: dict[str, Any]) -> tuple[str, ...]:
    """One layer: outputs as (time, batch, directions x hidden), then its last states."""
    graph, directions = call.graph, 2 if call["bidirectional"] else 1
    weights = _weights(call, operation, layer, directions)
    hidden = int(weights[1].shape[-1])
    outputs, *last = graph.split(
        operation,
        x,
        *(graph.constant(weight) for weight in weights),
        outputs=3 if operation == "LSTM" else 2,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        **attributes,
    )
    # ONNX has (time, directions, batch, hidden); 0 keeps time and batch.
    joined = graph.node("Transpose", outputs, perm=[0, 2, 1, 3])
    return graph.node("Reshape", joined, graph.integers([0, 0, directions * hidden])), *last


def _weights(call: Call, operation: str, layer: int, directions: int) -> list[Tensor]:
    """Input weights, recurrent weights and, where there are any, both biases in a row; all by direction."""
    count = 4 if call["has_biases"] else 2
    start = layer * directions * count
    given = call["params"][start : start + directions * count]
    hidden = int(shape_of(given[1])[-1])
    ordered = [_ordered(call.tensor(node), operation, hidden) for node in given]
    parts = [torch.stack(ordered[part::count]) for part in range(count)]
    return [*parts[:2], torch.cat(parts[2:], 1)] if count == 4 else parts


def _ordered(tensor: Tensor, operation: str, hidden: int) -> Tensor:
    gates = tensor.split(hidden)
    return torch.cat([gates[index] for index in _GATES[operation]])


TABLE: Table = {
    # torch adds the recurrent bias before the reset gate acts.
    "aten.gru.input": recurrent("GRU", linear_before_reset=1),
    "aten.lstm.input": recurrent("LSTM"),
    "aten.rnn_relu.input": recurrent("RNN", activations=["Relu"]),
    "aten.rnn_tanh.input": recurrent("RNN"),
}
