"""Cost: parameters, multiply-accumulates and activation memory of a network, for one sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils.flop_counter import FlopCounterMode

from haversack.errors import TraceError
from haversack.graph.branches import merged_tensors
from haversack.graph.memory import MemoryPlan, lifetimes, operation, plan
from haversack.graph.stored import Stored, stored
from haversack.graph.trace import Trace, layer_path

_META = torch.device("meta")


@dataclass(frozen=True)
class LayerCost:
    """What one operation computes and holds, for a batch of 1."""

    path: str
    operation: str
    parameters: int
    macs: int
    output_shape: tuple[int, ...]
    output_elements: int


@dataclass(frozen=True)
class Cost:
    """What a network needs for one sample. `layers` leaves out operations that are free, such as a ReLU.

    `parameters` equals the sum over `module.parameters()`: a shared one counts once, with its first user, and one that
    nothing uses is in no layer. `macs` are half the FLOPs of torch.utils.flop_counter. Neither counts branches that
    files do not have, because `merge` sums them up. `stored` is what files hold.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    macs: int
    memory: MemoryPlan
    bytes_per_element: int
    stored: Stored


def cost(trace: Trace, bytes_per_element: int = 4) -> Cost:
    """The cost of one sample, with every activation `bytes_per_element` wide.

    Nothing is computed: the graph runs on tensors without data. Raises TraceError where the network cannot run on a
    single sample.
    """
    run, branches = _shapes(trace), _branches(trace)
    parameters = [(user, count) for user, count in _first_users(trace) if user not in branches]
    layers = tuple(layer for node, layer in _layers(trace, run, parameters) if node not in branches)
    # Values that depend on no input are constants: they are stored with the weights, not in the arena.
    sizes = {
        node: run.elements(node) * bytes_per_element
        for node in trace.graph.nodes
        if node in run.from_input and node in run.results and node not in branches
    }
    return Cost(
        layers=layers,
        parameters=sum(count for _, count in parameters),
        macs=sum(layer.macs for layer in layers),
        memory=plan(lifetimes(trace.graph, sizes)),
        bytes_per_element=bytes_per_element,
        stored=stored(trace, [each for each in trace.operations() if each in sizes], run.constants()),
    )


class _Shapes(fx.Interpreter):
    """Runs a graph on meta tensors and keeps each node's result and FLOPs."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace.program.graph_module)
        self.inputs = [node for node in trace.graph.find_nodes(op="placeholder") if node.name not in trace.weights]
        sizes = [node.meta["val"].shape[0] for node in self.inputs]
        self.batch: int = max((int(size) for size in sizes if is_concrete_int(size)), default=1)
        """1, or the batch size that the network is written for: then all counts are divided by it."""
        self.results: dict[fx.Node, tuple[Tensor, ...]] = {}
        self.from_input: set[fx.Node] = set(self.inputs)
        self.flops: dict[fx.Node, int] = {}
        self._counter = FlopCounterMode(display=False)

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401 - whatever the node returns
        """The node's result, which is also kept."""
        try:
            result = self._counted(n)
        except Exception as error:
            lines = str(error).splitlines()
            raise TraceError(
                f"{operation(n)} does not run on a single sample: {lines[0] if lines else type(error).__name__}",
                where=f"layer {layer_path(n)}" if layer_path(n) else "network()",
                mend="let forward() work on a batch of 1 and on shapes that do not depend on the data.",
            ) from error
        parts = result if isinstance(result, tuple | list) else (result,)
        tensors = tuple(part for part in parts if isinstance(part, Tensor))
        if tensors:
            self.results[n] = tensors
            if any(source in self.from_input for source in n.all_input_nodes):
                self.from_input.add(n)
        return result

    def _counted(self, node: fx.Node) -> Any:  # noqa: ANN401
        if node.op != "call_function":
            return super().run_node(node)
        with self._counter:
            result = super().run_node(node)
        self.flops[node] = self._counter.get_total_flops()
        return result

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ANN401 - as fx declares it
        """The function's result without data, also where the network names a device."""
        args = tuple(_META if isinstance(value, torch.device) else value for value in args)
        return super().call_function(target, args, {**kwargs, "device": _META} if "device" in kwargs else kwargs)

    def elements(self, node: fx.Node) -> int:
        """Elements of a node's result for one sample."""
        return -(-sum(tensor.numel() for tensor in self.results[node]) // self.batch)

    def constants(self) -> dict[fx.Node, int]:
        """The tensors that hang on no input, and of how many numbers of four bytes they are."""
        held = {node: tensors for node, tensors in self.results.items() if node not in self.from_input}
        return {node: sum(each.nbytes for each in tensors) // 4 for node, tensors in held.items()}

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of a node's first result for one sample."""
        shape = tuple(self.results[node][0].shape)
        return (1, *shape[1:]) if shape and shape[0] == self.batch else shape


def _branches(trace: Trace) -> frozenset[fx.Node]:
    """The convolutions and batch norms that files do not have."""
    gone = merged_tensors(trace)
    weights = {name for name, tensor in trace.weights.items() if tensor in gone}
    return frozenset(node for node in trace.operations() if any(each.name in weights for each in node.all_input_nodes))


def _shapes(trace: Trace) -> _Shapes:
    run = _Shapes(trace)
    values = []
    for node in trace.graph.find_nodes(op="placeholder"):
        like = node.meta["val"]
        shape = (run.batch, *like.shape[1:]) if node in run.from_input else like.shape
        values.append(torch.empty(tuple(shape), dtype=like.dtype, device="meta"))
    with torch.no_grad():
        run.run(*values, enable_io_processing=False)
    return run


def _first_users(trace: Trace) -> list[tuple[fx.Node | None, int]]:
    """Each distinct parameter's first user (None where nothing uses it) and its element count."""
    order = {node: step for step, node in enumerate(trace.graph.nodes)}
    names = set(trace.program.graph_signature.parameters)
    users: dict[int, list[fx.Node]] = {}
    counts: dict[int, int] = {}
    for node in trace.graph.find_nodes(op="placeholder"):
        tensor = trace.tensor(node)
        if tensor is not None and trace.weights[node.name] in names:
            users.setdefault(id(tensor), []).extend(node.users)
            counts[id(tensor)] = tensor.numel()
    return [(min(users[key], key=order.__getitem__, default=None), count) for key, count in counts.items()]


def _layers(
    trace: Trace, run: _Shapes, parameters: list[tuple[fx.Node | None, int]]
) -> Iterator[tuple[fx.Node, LayerCost]]:
    held: dict[fx.Node | None, int] = {}
    for user, count in parameters:
        held[user] = held.get(user, 0) + count
    for node in trace.operations():
        if run.flops.get(node) or node in held:
            yield (
                node,
                LayerCost(
                    path=layer_path(node),
                    operation=operation(node),
                    parameters=held.get(node, 0),
                    macs=run.flops.get(node, 0) // 2 // run.batch,
                    output_shape=run.shape(node),
                    output_elements=run.elements(node),
                ),
            )
