"""One length: what stands around a graph for files that have one size, and the graph without any size left to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.batches import Outputs, each_of
from haversack.errors import ExportError
from haversack.filling import Filling
from haversack.graph.fold import free_name, new_constant
from haversack.graph.run import named_tensors

Predict = Callable[..., Any]


@dataclass(frozen=True)
class OneLength:
    """Inputs are filled up to the file's length, and outputs cut back to what they would be without that.

    `places` says by which of an input's dimensions torch calls a free size; `sizes` are those of the outputs.
    """

    filling: Filling
    places: Mapping[Any, tuple[int, int]]
    sizes: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, graph: fx.Graph, filling: Filling) -> OneLength:
        """Of a graph whose free lengths are free still. Raises ExportError for outputs that cannot be cut back."""
        inputs = graph.find_nodes(op="placeholder")
        places = {
            size.node.expr: (place, dim)
            for place, (node, axes) in enumerate(zip(inputs, filling.free, strict=True))
            for dim, _ in axes
            if isinstance(size := node.meta["val"].shape[dim], torch.SymInt)
        }
        given = graph.output_node().args[0]
        outputs = cast("Sequence[fx.Node]", given if isinstance(given, tuple | list) else (given,))
        sizes = tuple(tuple(map(_expression, node.meta["val"].shape)) for node in outputs)
        for place, size in ((place, size) for place, shape in enumerate(sizes) for size in shape):
            read = _symbols(size)
            if read & places.keys() and read - places.keys():
                raise ExportError(
                    f"output {place} has samples and positions along one dimension, which cannot be told apart when "
                    "inputs are filled up.",
                    where="network()",
                    mend="let forward() return them along dimensions of their own: (batch, length, ...).",
                )
        return cls(filling, places, sizes)

    def around(self, predict: Predict) -> Predict:
        """`predict`, which takes inputs of the file's length, for shorter ones."""

        def predicted(*inputs: Tensor) -> Any:  # noqa: ANN401 - outputs
            if len(inputs) != len(self.filling.free):
                return predict(*inputs)
            outputs = predict(*self.filling.filled(inputs))
            return self._cut(outputs, inputs)

        return predicted

    def _cut(self, outputs: Outputs, inputs: Sequence[Tensor]) -> Outputs:
        known = {size: inputs[place].shape[dim] for size, (place, dim) in self.places.items()}
        cut = []
        for output, sizes in zip(each_of(outputs), self.sizes, strict=True):
            free = [_symbols(size) & known.keys() for size in sizes]
            ends = [int(size.subs(known)) if read else None for size, read in zip(sizes, free, strict=True)]
            cut.append(output[tuple(slice(end) for end in ends)])
        return cut[0] if isinstance(outputs, Tensor) else tuple(cut)


def _expression(size: Any) -> Any:  # noqa: ANN401 - a number, or torch's expression for one
    return size.node.expr if isinstance(size, torch.SymInt) else size


def _symbols(size: Any) -> set[Any]:  # noqa: ANN401
    symbols: set[Any] = getattr(size, "free_symbols", set())
    return symbols


def at_its_length(lowered: fx.GraphModule, predict: Predict) -> Predict:
    """`predict`, a file of the graph or the graph itself, for inputs as the user yields them."""
    around: OneLength | None = lowered.meta.get("one_length")
    return predict if around is None else around.around(predict)


def filled(lowered: fx.GraphModule, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs as long as a file of the graph takes them."""
    around: OneLength | None = lowered.meta.get("one_length")
    return inputs if around is None else around.filling.filled(inputs)


def without_sizes(lowered: fx.GraphModule) -> fx.GraphModule:
    """A copy of the graph in which sizes that are known are numbers, and what follows from them alone is a constant.

    It is the graph itself where it reads no such size.
    """
    if not any(map(_is_number, lowered.graph.nodes)):
        return lowered
    graph = fx.Graph()
    graph.output(graph.graph_copy(lowered.graph, {}))
    tensors = named_tensors(lowered)
    following: set[fx.Node] = set()
    for node in list(graph.nodes):
        if _is_number(node):
            following.update(node.users)
            _put_in(node, node.meta["val"])
        elif node in following and _is_settled(node):
            constant = _computed(graph, node, tensors)
            following.update(constant.users)
    graph.eliminate_dead_code()
    used = {str(node.target): tensors[str(node.target)] for node in graph.find_nodes(op="get_attr")}
    copy = fx.GraphModule(cast("dict[str, Any]", used), graph, "OneLength")
    copy.meta = dict(lowered.meta)
    return copy


def _is_number(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), bool | int | float)


def _put_in(size: fx.Node, number: float) -> None:
    """Lets all that reads the size be told the number."""

    def told(argument: fx.Node) -> Any:  # noqa: ANN401 - a node, or a number
        return number if argument is size else argument

    for user in list(size.users):
        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), told)


def _is_settled(node: fx.Node) -> bool:
    """Whether it follows from constants alone."""
    return node.op == "call_function" and all(each.op == "get_attr" for each in node.all_input_nodes)


def _computed(graph: fx.Graph, node: fx.Node, tensors: dict[str, Tensor]) -> fx.Node:
    """The constant that takes the node's place."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda constant: tensors[str(constant.target)])
    with torch.no_grad():
        value = cast("Callable[..., Tensor]", node.target)(*args, **kwargs)
    constant = new_constant(graph, node, free_name(node.name, tensors), value.contiguous(), tensors)
    node.replace_all_uses_with(constant)
    return constant
