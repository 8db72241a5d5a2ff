"""Trace: a module becomes a graph of ATen operations with shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haversack.graph.run import named_tensors
from haversack.graph.structure import Structure, structure_of
from haversack.lengths import Axes
from haversack.wiring import free_axes


@dataclass(frozen=True, eq=False)
class Trace:
    """A network read as a graph: one node an operation, `node.meta["val"]` its shape and type.

    `own` are the network's tensors by name; `example` is a batch of two or more. Free lengths are the example's.
    """

    structure: Structure
    own: Mapping[str, Tensor]
    example: tuple[Tensor, ...]

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The network's tensors and the constants of its code, by name."""
        return {**self.structure.constants, **self.own}

    @property
    def graph(self) -> fx.Graph:
        """The operations, in order."""
        graph: fx.Graph = self.structure.network.graph
        return graph

    @property
    def weights(self) -> Mapping[str, str]:
        """The tensor behind each placeholder node that is not an input: its name, by the node's."""
        return self.structure.weights

    def operations(self) -> Iterator[fx.Node]:
        """The nodes that compute something."""
        return (node for node in self.graph.nodes if node.op == "call_function")

    def tensor(self, node: fx.Node) -> Tensor | None:
        """The weight or constant behind a placeholder node, or None where it is an input or a result."""
        name = self.weights.get(node.name)
        return None if name is None else self.own.get(name, self.structure.constants.get(name))


def trace(module: nn.Module, example: tuple[Tensor, ...]) -> Trace:
    """The graph of `module` in evaluation mode with a free batch dimension, where the network allows one.

    `example` is a batch of inputs. Raises TraceError, naming the layer, when torch.export cannot read the network, and
    where it fixes a length that shall be free.
    """
    inputs = two_or_more(example, free_axes(module))
    structure = structure_of(module, inputs)
    return Trace(structure, named_tensors(module), inputs)


def two_or_more(example: tuple[Tensor, ...], free: tuple[Axes, ...] = ()) -> tuple[Tensor, ...]:
    """The inputs, a single sample twice, and so each of one length: torch.export fixes sizes 0 and 1."""
    return tuple(_doubled(value, axes) for value, axes in zip(example, free or ((),) * len(example), strict=True))


def _doubled(value: Tensor, axes: Axes) -> Tensor:
    for dim in (0, *dict(axes)):
        value = torch.cat([value, value], dim) if value.shape[dim] == 1 else value
    return value


def layer_path(node: fx.Node) -> str:
    """The dotted name of the module whose code made this node; '' for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if not path.startswith("_empty")]
    return stack[-1] if stack else ""


def computes_tensors(node: fx.Node) -> bool:
    """Whether it is more than arithmetic on sizes, which shapes already answer."""
    return not isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


def arguments_of(node: fx.Node) -> dict[str, Any]:
    """Arguments by the names of the operation's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):  # noqa: SLF001
        return {str(index): argument for index, argument in enumerate(node.args)}
    schema = node.target._schema.arguments  # noqa: SLF001
    given = dict(zip((argument.name for argument in schema), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}
