"""Unroll: recurrent layers as the plain operations of each of their steps, for runtimes that have no form of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.ops import Trait, traits_of
from haversack.graph.recurrent import ROUNDED_ROWS, ROUNDS, rounds_step_by_step
from haversack.graph.run import named_tensors
from haversack.graph.trace import arguments_of
from haversack.progress import note

aten = torch.ops.aten
_AS_IT_COMES = torch.ops.haversack.lstm_as_it_comes.default


def unrolled(network: fx.GraphModule, *, rounding: bool = False) -> fx.GraphModule:
    """A copy of the graph in which recurrent layers that start from zeros are linear layers and functions step by step.

    Without such layers it is the graph itself. Layers in training, without a batch, of a free number of steps or with a
    projection stay as they are. With `rounding` they are those whose inputs are rounded as they come, and each row of
    these and of the state is rounded; without, those whose are not.
    """
    chosen = [node for node in network.graph.nodes if rounds_step_by_step(node) == rounding and _can_be(node)]
    if not chosen:
        return network
    names = {node.name for node in chosen}
    graph = fx.Graph()
    graph.output(graph.graph_copy(network.graph, {}))
    tensors = named_tensors(network)
    for node in [each for each in graph.nodes if each.name in names]:
        _Unrolling(graph, node, tensors).replace()
    graph.eliminate_dead_code()
    used = {str(node.target): tensors[str(node.target)] for node in graph.find_nodes(op="get_attr")}
    copy = fx.GraphModule(cast("dict[str, Any]", used), graph, "Unrolled")
    copy.meta = dict(network.meta)
    return copy


def _can_be(node: fx.Node) -> bool:
    if not traits_of(node) & Trait.RECURRENT and node.target is not _AS_IT_COMES:
        return False
    told = arguments_of(node)
    states = told["hx"] if isinstance(told["hx"], list | tuple) else [told["hx"]]
    shape = told["input"].meta["val"].shape
    whole = told["num_layers"] * (1 + told["bidirectional"]) * (4 if told["has_biases"] else 2) == len(told["params"])
    zeros = all(str(state.target).startswith("aten.zeros") for state in states)
    return whole and zeros and not told["train"] and len(shape) == 3 and isinstance(shape[1 - _batch(told)], int)


def _batch(told: dict[str, Any]) -> int:
    """The dimension of the samples."""
    return 0 if told["batch_first"] else 1


@dataclass(frozen=True)
class _Direction:
    """The weights of one layer and direction; biases are None where there are none."""

    inner: fx.Node
    state: fx.Node
    bias: fx.Node | None = None
    state_bias: fx.Node | None = None


@dataclass
class _Reached:
    """What one step hands to the next; None at the start, where all is zero."""

    hidden: fx.Node | None = None
    cell: fx.Node | None = None


class _Unrolling:
    """One recurrent operation of a graph, and the writing of what stands for it."""

    def __init__(self, graph: fx.Graph, node: fx.Node, tensors: dict[str, Tensor]) -> None:
        self.graph, self.node, self.tensors = graph, node, tensors
        self.told = arguments_of(node)
        self.time = 1 - _batch(self.told)
        self.values = cast("Tensor", self.told["input"].meta["val"])
        self.units = int(self.told["params"][1].meta["val"].shape[1])

    def replace(self) -> None:
        """Puts the plain operations in the layer's place."""
        steps = int(self.values.shape[self.time])
        note(f"the recurrent layer {self.node.name} is written step by step, {steps} times.")
        with self.graph.inserting_before(self.node):
            results = self._results()
        for user in list(self.node.users):
            user.replace_all_uses_with(results[cast("int", user.args[1])])
            self.graph.erase_node(user)
        self.graph.erase_node(self.node)

    def _results(self) -> list[fx.Node]:
        """The outputs and the last states, as the operation gives them."""
        values, lasts = self.told["input"], list[_Reached]()
        sides = 1 + self.told["bidirectional"]
        for layer in range(self.told["num_layers"]):
            parts = [self._direction(values, layer * sides + side, lasts, back=bool(side)) for side in range(sides)]
            values = parts[0] if sides == 1 else self._joined(parts, -1, self._along(self.units * sides))
        shape = len(lasts), self._samples, self.units
        states = [[last.hidden for last in lasts], [last.cell for last in lasts]]
        apart = [
            [self._emit(aten.unsqueeze.default, (each, 0), (1, *shape[1:])) for each in some]
            for some in states
            if all(some)
        ]
        return [values, *(self._joined(some, 0, shape) for some in apart)]

    def _direction(self, values: fx.Node, place: int, lasts: list[_Reached], *, back: bool) -> fx.Node:
        """The outputs of one direction of one layer; its last state joins `lasts`."""
        count = 4 if self.told["has_biases"] else 2
        weights = _Direction(*self.told["params"][place * count : (place + 1) * count])
        rows = int(weights.inner.meta["val"].shape[0])
        gates = self._emit(aten.linear.default, (self._read(values), weights.inner, weights.bias), self._along(rows))
        steps = self._parts(aten.unbind.int, (gates, self.time), int(self.values.shape[self.time]), rows)
        state, outputs = _Reached(), list[fx.Node]()
        for step in reversed(steps) if back else steps:
            state = _STEPS[self.node.target](self, step, state, weights)
            outputs.append(cast("fx.Node", state.hidden))
        lasts.append(state)
        one = [1, 1, self.units]
        shape = [self._samples if dim == 1 - self.time else size for dim, size in enumerate(one)]
        apart = [self._emit(aten.unsqueeze.default, (each, self.time), shape) for each in outputs]
        return self._joined(apart[::-1] if back else apart, self.time, self._along(self.units))

    def lstm(self, inner: fx.Node, state: _Reached, weights: _Direction) -> _Reached:
        """One step of an LSTM."""
        gates = self._sum(inner, self._of_state(state, weights))
        taken, kept, new, shown = self._parts(aten.chunk.default, (gates, 4, -1), 4, self.units)
        cell = self._product(self._sigmoid(taken), self._tanh(new))
        if state.cell is not None:
            cell = self._sum(self._product(self._sigmoid(kept), state.cell), cell)
        return _Reached(self._product(self._sigmoid(shown), self._tanh(cell)), cell)

    def gru(self, inner: fx.Node, state: _Reached, weights: _Direction) -> _Reached:
        """One step of a GRU."""
        reset, update, new = self._parts(aten.chunk.default, (inner, 3, -1), 3, self.units)
        of_state = self._of_state(state, weights)
        if of_state is not None:
            parts = self._thirds(of_state)
            reset, update = (self._sum(one, other) for one, other in zip((reset, update), parts, strict=False))
            new = self._sum(new, self._product(self._sigmoid(reset), parts[2]))
        new, kept = self._tanh(new), self._sigmoid(update)
        if state.hidden is None:
            return _Reached(self._difference(new, self._product(kept, new)))
        return _Reached(self._sum(new, self._product(kept, self._difference(state.hidden, new))))

    def rnn(self, inner: fx.Node, state: _Reached, weights: _Direction) -> _Reached:
        """One step of a plain RNN."""
        function = aten.tanh.default if self.node.target is aten.rnn_tanh.input else aten.relu.default
        return _Reached(self._plain(function, self._sum(inner, self._of_state(state, weights))))

    def _of_state(self, state: _Reached, weights: _Direction) -> fx.Node | None:
        """What the state adds to the gates; None where that is nothing."""
        if state.hidden is None:
            return weights.state_bias
        rows = int(weights.state.meta["val"].shape[0])
        arguments = (self._read(state.hidden), weights.state, weights.state_bias)
        return self._emit(aten.linear.default, arguments, (self._samples, rows))

    def _read(self, value: fx.Node) -> fx.Node:
        """What products read of a value: its rows rounded, where they are as they come."""
        return self._plain(ROUNDED_ROWS, value) if rounds_step_by_step(self.node) else value

    def _thirds(self, gates: fx.Node) -> list[fx.Node]:
        """Three gates, or the constants that stand for them before there is a state."""
        if gates.op != "get_attr":
            return self._parts(aten.chunk.default, (gates, 3, -1), 3, self.units)
        thirds = []
        for index, part in enumerate(self.tensors[str(gates.target)].detach().chunk(3)):
            name = f"{gates.target}_third_{index}"
            self.tensors[name] = part
            third = self.graph.create_node("get_attr", name)
            third.meta["val"] = part.to("meta")
            thirds.append(third)
        return thirds

    @property
    def _samples(self) -> Any:  # noqa: ANN401 - a number, or a free size
        return self.values.shape[1 - self.time]

    def _along(self, width: int) -> list[Any]:
        """The shape of a value of all steps."""
        return [*self.values.shape[:2], width]

    def _sum(self, one: fx.Node, other: fx.Node | None) -> fx.Node:
        return one if other is None else self._plain(aten.add.Tensor, one, other)

    def _difference(self, one: fx.Node, other: fx.Node) -> fx.Node:
        return self._plain(aten.sub.Tensor, one, other)

    def _product(self, one: fx.Node, other: fx.Node) -> fx.Node:
        return self._plain(aten.mul.Tensor, one, other)

    def _sigmoid(self, value: fx.Node) -> fx.Node:
        return self._plain(aten.sigmoid.default, value)

    def _tanh(self, value: fx.Node) -> fx.Node:
        return self._plain(aten.tanh.default, value)

    def _joined(self, parts: Sequence[fx.Node | None], dim: int, shape: Sequence[Any]) -> fx.Node:
        return self._emit(aten.cat.default, (list(parts), dim), shape)

    def _plain(self, target: Callable[..., Any], *values: fx.Node) -> fx.Node:
        """A function of values of one shape, of which only the last may be a constant."""
        return self._emit(target, values, values[0].meta["val"].shape)

    def _parts(self, target: Callable[..., Any], arguments: tuple[Any, ...], count: int, width: int) -> list[fx.Node]:
        """The results of an operation that takes a value apart, each (samples, width)."""
        whole = self._emit(target, arguments, (self._samples, width))
        value = whole.meta["val"]
        whole.meta["val"] = [value] * count
        return [self._with(self.graph.call_function(operator.getitem, (whole, at)), value) for at in range(count)]

    def _emit(self, target: Callable[..., Any], arguments: tuple[Any, ...], shape: Sequence[Any]) -> fx.Node:
        return self._with(self.graph.call_function(target, arguments), self.values.new_empty(tuple(shape)))

    def _with(self, node: fx.Node, value: Tensor) -> fx.Node:
        node.meta = {**self.node.meta, "val": value, ROUNDS: False}
        return node


_STEPS: dict[Any, Callable[[_Unrolling, fx.Node, _Reached, _Direction], _Reached]] = {
    aten.lstm.input: _Unrolling.lstm,
    _AS_IT_COMES: _Unrolling.lstm,
    aten.gru.input: _Unrolling.gru,
    aten.rnn_tanh.input: _Unrolling.rnn,
    aten.rnn_relu.input: _Unrolling.rnn,
}
