"""Call: one ATen operation of the graph, read by the names of its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.graph.memory import operation
from haversack.graph.trace import layer_path
from haversack.runtimes.onnx.graph import OnnxGraph


class NotComputedError(ExportError):
    """ONNX Runtime itself computes no such thing, whoever writes the file."""


Values = str | tuple[str, ...]
Dim = int | torch.SymInt


@dataclass(frozen=True)
class Call:
    """An operation, its arguments by name with defaults filled in, and the ONNX graph that it is written to."""

    operation: fx.Node
    graph: OnnxGraph
    arguments: Mapping[str, Any]
    values: Mapping[fx.Node, Values]

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401
        return self.arguments[name]

    @property
    def first(self) -> fx.Node:
        """The operation's first argument."""
        return cast("fx.Node", next(iter(self.arguments.values())))

    @property
    def x(self) -> str:
        """The ONNX value of the first argument."""
        return self.value(self.first)

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The first argument's shape."""
        return shape_of(self.first)

    @property
    def result(self) -> tuple[Dim, ...]:
        """The result's shape."""
        return shape_of(self.operation)

    @property
    def dtype(self) -> torch.dtype:
        """The type in which this file stores the result."""
        return self.graph.stored_type(self.operation.meta["val"].dtype)

    def value(self, argument: Any, dtype: torch.dtype | None = None) -> str:  # noqa: ANN401
        """The ONNX value of an argument; '' stands for None, as ONNX has it for an input that is left out.

        A number has the result's type, or `dtype`.
        """
        if argument is None:
            return ""
        if isinstance(argument, bool | int | float):
            return self.graph.number(argument, dtype or self.dtype)
        if isinstance(argument, torch.SymInt):
            number = self.graph.node("Squeeze", self.shape_value([argument]))
            return self.graph.cast(number, dtype or self.dtype)
        value = self.values.get(argument)
        if not isinstance(value, str):
            raise self.unsupported(f"with {argument} as an argument")
        return value

    def tensor(self, argument: fx.Node) -> Tensor:
        """The numbers of an argument that must be a constant."""
        tensor = self.graph.tensors.get(self.value(argument))
        if tensor is None:
            raise self.unsupported(f"with {argument.name} computed by the network")
        return tensor

    def spatial(self, name: str, dims: int) -> list[int]:
        """An argument that is one number for all dimensions or one for each; none of them free."""
        value = self[name]
        values = list(value) if isinstance(value, Sequence) else [value]
        if any(isinstance(each, torch.SymInt) for each in values):
            raise self.unsupported(f"with a {name} that is free")
        return values * dims if len(values) == 1 else values

    def dim(self, name: str = "dim", rank: int | None = None) -> int:
        """A dimension counted from the front."""
        return int(self[name]) % (len(self.shape) if rank is None else rank)

    def dims(self, name: str = "dim") -> list[int]:
        """Dimensions counted from the front; all of them where none is named."""
        rank = len(self.shape)
        given = self.arguments.get(name)
        if given is None or given == []:
            return list(range(rank))
        return [dim % rank for dim in (given if isinstance(given, Sequence) else [given])]

    def size(self, dim: int) -> int:
        """The first argument's size along a dimension that must not be free."""
        size = self.shape[dim]
        if not isinstance(size, int):
            raise self.unsupported(f"along dimension {dim}, whose size is free")
        return size

    def sizes(self, start: int = 0) -> list[int]:
        """The first argument's sizes from dimension `start` on, none of them free."""
        return [self.size(dim) for dim in range(start, len(self.shape))]

    def shape_value(self, sizes: Sequence[Dim]) -> str:
        """A shape as an ONNX value, free sizes included."""
        value = self.graph.sizes(sizes)
        if value is None:
            raise self.unsupported("with a size that no input tells")
        return value

    def unsupported(self, why: str = "") -> ExportError:
        """The error that says which operation cannot be written, and where in the network it is."""
        return unsupported(self.operation, why)


Table = Mapping[str, Callable[[Call], Values]]


def shape_of(node: fx.Node) -> tuple[Dim, ...]:
    """A node's shape. Operations without one (quantize, dequantize) leave the shape of what they read."""
    while "val" not in node.meta:
        node = cast("fx.Node", node.args[0])
    return sizes_of(node.meta["val"])


def sizes_of(value: Tensor) -> tuple[Dim, ...]:
    """A tensor's sizes; those that the trace found to be one number are that number."""
    return tuple(known(dim) for dim in value.shape)


def known(dim: Dim) -> Dim:
    """A size, as a number where the trace found it to be one."""
    number = dim.node.maybe_as_int() if isinstance(dim, torch.SymInt) else dim
    return dim if number is None else int(number)


def settled(argument: Any) -> Any:  # noqa: ANN401 - whatever an operation takes
    """An argument with sizes, which the trace knows, in place of the operations that compute them."""
    return fx.map_arg(argument, _settled)


def _settled(node: fx.Node) -> Any:  # noqa: ANN401 - a node, or a number
    value = node.meta.get("val")
    if isinstance(value, torch.SymInt):
        return known(value)
    return value if isinstance(value, bool | int | float) else node


def constant_of(graph: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor behind a `get_attr` node."""
    parent, _, name = str(node.target).rpartition(".")
    tensor: Tensor = getattr(graph.get_submodule(parent), name)
    return tensor


def unsupported(node: fx.Node, why: str = "") -> ExportError:
    """The error that names an operation and its layer."""
    layer = layer_path(node)
    return ExportError(
        f"our ONNX writer does not know {operation(node)}{' ' if why else ''}{why}.",
        where=f"layer {layer}" if layer else f"operation {node.name}",
        mend="let torch.onnx.export write this network: pip install 'haversack[fallback]'.",
    )
