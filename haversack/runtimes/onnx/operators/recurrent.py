"""Recurrent layers: LSTM, GRU and plain RNN, several layers deep and in both directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.pairs import pairs
from haversack.runtimes.onnx.call import Call, Table, Values, shape_of

# Where ONNX has each gate in torch's order: torch's LSTM has input, forget, cell, output; its GRU reset, update, new.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


Written = Callable[[Call, str, int, str], tuple[str, ...]]
"""What writes one layer: outputs as (time, batch, directions x hidden), then its last states."""


def recurrent(operation: str, **attributes: Any) -> Callable[[Call], Values]:  # noqa: ANN401
    """A function that writes a recurrent layer that starts from zeros: outputs, then the last states."""
    return lambda call: _layers(call, operation, partial(_layer, attributes=attributes))


def lstm_as_it_comes(call: Call) -> Values:
    """An LSTM on integers: what it reads and its state are rounded by the operator, which is ONNX Runtime's own."""
    return _layers(call, "LSTM", _layer_as_it_comes)


def _layers(call: Call, operation: str, written: Written) -> Values:
    states = call["hx"] if isinstance(call["hx"], list | tuple) else [call["hx"]]
    if call["train"] or len(call.shape) != 3 or any(not _is_zeros(state) for state in states):
        raise call.unsupported("in training, without a batch, or with states to start from")
    graph, swap = call.graph, call["batch_first"]
    x = graph.node("Transpose", call.x, perm=[1, 0, 2]) if swap else call.x
    lasts: list[tuple[str, ...]] = []
    for layer in range(call["num_layers"]):
        x, *last = written(call, operation, layer, x)
        lasts.append(tuple(last))
    outputs = graph.node("Transpose", x, perm=[1, 0, 2]) if swap else x
    return outputs, *(graph.node("Concat", *each, axis=0) for each in zip(*lasts, strict=True))


def _is_zeros(state: fx.Node) -> bool:
    return str(state.target).startswith("aten.zeros")


def _layer(call: Call, operation: str, layer: int, x: str, attributes: dict[str, Any]) -> tuple[str, ...]:
    graph, given = call.graph, _given(call, layer)
    outputs, *last = graph.split(
        operation,
        x,
        *(_matrices(call, part, operation) for part in given[:2]),
        _biases(call, given, operation),
        outputs=3 if operation == "LSTM" else 2,
        **_settings(call, given),
        **attributes,
    )
    return _joined(call, given, outputs), *last


def _layer_as_it_comes(call: Call, operation: str, layer: int, x: str) -> tuple[str, ...]:
    graph, given = call.graph, _given(call, layer)
    inner, recurrent = (_integers(call, part, operation) for part in given[:2])
    # One zero would do, but behind the first direction's ONNX Runtime looks for the second's as far as steps are apart.
    zeros = inner[1].shape if call["bidirectional"] else (1,)
    zero = graph.constant(torch.zeros(zeros, dtype=torch.int8))
    (table, step), (state_table, state_step) = (
        (graph.constant(integers.transpose(1, 2).contiguous()), graph.constant(steps, exact=True))
        for integers, steps in (inner, recurrent)
    )
    biases = _biases(call, given, operation)
    outputs, *last = graph.split(
        "DynamicQuantizeLSTM",
        *(graph.cast(x, torch.float32), table, state_table, biases, "", "", "", "", step, zero, state_step, zero),
        outputs=3,
        domain="com.microsoft",
        **_settings(call, given),
    )
    return _joined(call, given, outputs), *last


def _given(call: Call, layer: int) -> list[list[fx.Node]]:
    """A layer's weights, part by part: input weights of each direction, recurrent weights, and where any, biases."""
    count, directions = 4 if call["has_biases"] else 2, 2 if call["bidirectional"] else 1
    if len(call["params"]) != call["num_layers"] * directions * count:
        raise call.unsupported("with a projection")
    given = call["params"][layer * directions * count :][: directions * count]
    return [given[part::count] for part in range(count)]


def _hidden(given: list[list[fx.Node]]) -> int:
    return int(shape_of(given[1][0])[-1])


def _settings(call: Call, given: list[list[fx.Node]]) -> dict[str, Any]:
    return {"hidden_size": _hidden(given), "direction": "bidirectional" if call["bidirectional"] else None}


def _joined(call: Call, given: list[list[fx.Node]], outputs: str) -> str:
    """ONNX has (time, directions, batch, hidden); 0 keeps time and batch."""
    joined = call.graph.node("Transpose", outputs, perm=[0, 2, 1, 3])
    return call.graph.node("Reshape", joined, call.graph.integers([0, 0, len(given[0]) * _hidden(given)]))


def _biases(call: Call, given: list[list[fx.Node]], operation: str) -> str:
    """Both biases in a row, by direction; '' where there are none."""
    parts = [torch.stack([_ordered(call.tensor(each), operation) for each in part]) for part in given[2:]]
    return call.graph.constant(torch.cat(parts, 1)) if parts else ""


def _matrices(call: Call, given: list[fx.Node], operation: str) -> str:
    """One matrix of each direction: real numbers, or integers that the runtime multiplies out as it loads the file."""
    if all(each.target is not _DEQUANTIZE for each in map(_whole, given)):
        return call.graph.constant(torch.stack([_ordered(call.tensor(each), operation) for each in given]))
    if any(each.target is not _DEQUANTIZE for each in map(_whole, given)):
        raise call.unsupported("with integers in one direction only")
    graph, (integers, steps) = call.graph, _integers(call, given, operation)
    scaled = graph.constant(steps.unsqueeze(-1), exact=True)
    real = graph.node("Mul", graph.cast(graph.constant(integers), torch.float32), scaled)
    shape = [len(given), *(int(size) for size in shape_of(given[0]))]
    whole = real if list(integers.shape) == shape else graph.node("Reshape", real, graph.integers(shape))
    return graph.cast(whole, graph.stored_type(torch.float32))


def _integers(call: Call, given: list[fx.Node], operation: str) -> tuple[Tensor, Tensor]:
    """One matrix of each direction as integers, and the steps of their rows."""
    parts = zip(*(_whole(each).args[:2] for each in given), strict=True)
    integers, steps = (
        torch.stack([_ordered(call.tensor(cast("fx.Node", each)), operation) for each in part]) for part in parts
    )
    return integers, steps


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
    "haversack.lstm_as_it_comes": lstm_as_it_comes,
    "aten.rnn_relu.input": recurrent("RNN", activations=["Relu"]),
    "aten.rnn_tanh.input": recurrent("RNN"),
}
