"""Recurrent layers: LSTM, GRU and plain RNN, several layers deep and in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.pairs import pairs
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
    weights, hidden = _weights(call, operation, layer, directions)
    outputs, *last = graph.split(
        operation,
        x,
        *weights,
        outputs=3 if operation == "LSTM" else 2,
        hidden_size=hidden,
        direction="bidirectional" if directions == 2 else None,
        **attributes,
    )
    # ONNX has (time, directions, batch, hidden); 0 keeps time and batch.
    joined = graph.node("Transpose", outputs, perm=[0, 2, 1, 3])
    return graph.node("Reshape", joined, graph.integers([0, 0, directions * hidden])), *last


def _weights(call: Call, operation: str, layer: int, directions: int) -> tuple[list[str], int]:
    """Input weights, recurrent weights and, where there are any, both biases in a row, all by direction; the units."""
    count = 4 if call["has_biases"] else 2
    if len(call["params"]) != call["num_layers"] * directions * count:
        raise call.unsupported("with a projection")
    start = layer * directions * count
    given = call["params"][start : start + directions * count]
    matrices = [_matrices(call, given[part::count], operation) for part in range(2)]
    hidden = int(shape_of(given[1])[-1])
    if count == 2:
        return matrices, hidden
    biases = [torch.stack([_ordered(call.tensor(each), operation) for each in given[part::4]]) for part in (2, 3)]
    return [*matrices, call.graph.constant(torch.cat(biases, 1))], hidden


def _matrices(call: Call, given: list[fx.Node], operation: str) -> str:
    """One matrix of each direction: real numbers, or integers that the runtime multiplies out as it loads the file."""
    if all(each.target is not _DEQUANTIZE for each in map(_whole, given)):
        return call.graph.constant(torch.stack([_ordered(call.tensor(each), operation) for each in given]))
    if any(each.target is not _DEQUANTIZE for each in map(_whole, given)):
        raise call.unsupported("with integers in one direction only")
    graph = call.graph
    parts = zip(*(_whole(each).args[:2] for each in given), strict=True)
    integers, steps = (
        torch.stack([_ordered(call.tensor(cast("fx.Node", each)), operation) for each in part]) for part in parts
    )
    scaled = graph.constant(steps.unsqueeze(-1), exact=True)
    real = graph.node("Mul", graph.cast(graph.constant(integers), torch.float32), scaled)
    shape = [len(given), *(int(size) for size in given[0].meta["val"].shape)]
    whole = real if list(integers.shape) == shape else graph.node("Reshape", real, graph.integers(shape))
    return graph.cast(whole, graph.stored_type(torch.float32))


def _whole(weight: fx.Node) -> fx.Node:
    """The weight as it was before rows of one step each were joined to its own rows."""
    joined = weight.op == "call_function" and weight.target is not _DEQUANTIZE
    return cast("fx.Node", weight.args[0]) if joined else weight


def _ordered(tensor: Tensor, operation: str) -> Tensor:
    gates = tensor.chunk(len(_GATES[operation]))
    return torch.cat([gates[index] for index in _GATES[operation]])


_DEQUANTIZE = pairs.dequantize_per_channel.default
TABLE: Table = {
    # torch adds the recurrent bias before the reset gate acts.
    "aten.gru.input": recurrent("GRU", linear_before_reset=1),
    "aten.lstm.input": recurrent("LSTM"),
    "aten.rnn_relu.input": recurrent("RNN", activations=["Relu"]),
    "aten.rnn_tanh.input": recurrent("RNN"),
}
