"""Trace: a module becomes a graph of ATen operations with shapes."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from haversack.errors import TraceError
from haversack.graph.run import on_the_same_tensors


@dataclass(frozen=True)
class Trace:
    """An exported network: `program.graph` holds one node an operation, `node.meta["val"]` its shape and type.

    `weights` names the state-dict entry behind each placeholder node that is not an input.
    """

    program: torch.export.ExportedProgram
    weights: Mapping[str, str]

    @property
    def graph(self) -> fx.Graph:
        """The operations, in order."""
        graph: fx.Graph = self.program.graph
        return graph

    def operations(self) -> Iterator[fx.Node]:
        """The nodes that compute something."""
        return (node for node in self.graph.nodes if node.op == "call_function")

    def tensor(self, node: fx.Node) -> Tensor | None:
        """The weight or constant behind a placeholder node, or None where it is an input or a result."""
        name = self.weights.get(node.name)
        if name is None:
            return None
        tensors: Mapping[str, Tensor] = {**self.program.constants, **self.program.state_dict}
        return tensors[name]


def trace(module: nn.Module, example: tuple[Tensor, ...]) -> Trace:
    """The graph of `module` in evaluation mode with a free batch dimension, where the network allows one.

    `example` is a batch of inputs. Raises TraceError, naming the layer, when torch.export cannot read the network.
    """
    # The caller's mode stays, and its weights are only looked at. Two samples: torch.export fixes sizes 0 and 1.
    module = on_the_same_tensors(module).eval()
    inputs = tuple(torch.cat([value, value]) if value.shape[0] == 1 else value for value in example)
    shapes = _as_parameters(module, tuple({0: torch.export.Dim.AUTO} for _ in inputs))
    with _layers_followed(module) as layers, _quiet():
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise _explained(error, layers) from error
    signature = program.graph_signature
    weights = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return Trace(program, weights)


def _as_parameters(module: nn.Module, each: tuple[object, ...]) -> tuple[object, ...]:
    """One entry a parameter of forward(), as torch.export wants it: those of `*inputs` are one entry."""
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return each
    first = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*each[:first], each[first:])


def layer_path(node: fx.Node) -> str:
    """The dotted name of the module whose code made this node; '' for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if not path.startswith("_empty")]
    return stack[-1] if stack else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's own warnings and log lines away: what matters of them is in the TraceError."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _layers_followed(module: nn.Module) -> Iterator[list[str]]:
    """Keeps the path of the module that is running, so that a failure can name it."""
    running: list[str] = []
    handles = []
    for path, layer in module.named_modules():

        def enter(_: nn.Module, __: object, path: str = path) -> None:
            running.append(path)

        def leave(_: nn.Module, __: object, ___: object) -> None:
            running.pop()

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _explained(error: Exception, layers: list[str]) -> TraceError:
    layer = next((path for path in reversed(layers) if path), "")
    first = str(error).strip().splitlines()
    return TraceError(
        f"torch.export cannot trace the network: {type(error).__name__}: {first[0] if first else ''}",
        where=f"layer {layer}" if layer else "network()",
        mend="replace control flow that depends on data in that layer's forward(), then try again.",
    )


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
