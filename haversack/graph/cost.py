"""Cost: parameters, multiply-accumulates, bytes and activation memory of a network and of its files, for one sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import is_concrete_int
from torch.utils.flop_counter import FlopCounterMode

from haversack.errors import TraceError
from haversack.graph.fold import fold
from haversack.graph.memory import MemoryPlan, lifetimes, operation, plan
from haversack.graph.merge import merge
from haversack.graph.ops import Trait, integer_weight, traits_of
from haversack.graph.trace import Trace, layer_path

_SUMMED = ("conv1d", "conv2d", "conv3d", "batch_norm")


def merged_tensors(trace: Trace) -> frozenset[str]:
    """The kernels, biases, scales and shifts that go into a layer beside them, by their names in the state dict."""
    # Most networks have none: to fold them only to see that takes longer than to weigh them.
    if max(Counter(_summands(trace)).values(), default=0) < 2:
        return frozenset()
    merged = merge(fold(trace)).merged.values()
    return frozenset(name for branches in merged for name in (*branches.kernels, *branches.zeroed))


def _summands(trace: Trace) -> Iterator[tuple[object, fx.Node]]:
    """Each summand's source, and the whole sum."""
    for node in trace.operations():
        total = _total(node) if operation(node) in _SUMMED else None
        if total is not None:
            yield node.args[0], total


def _total(node: fx.Node) -> fx.Node | None:
    """The sum that this value is a summand of, perhaps after its batch norm; None where it is none."""
    total = None
    while len(node.users) == 1:
        node = next(iter(node.users))
        if operation(node) == "add":
            total = node
        elif operation(node) != "batch_norm" or total is not None:
            break
    return total


@dataclass(frozen=True)
class Stored:
    """The numbers that a network's files hold, each tensor once, and batch norms folded into the layers before them.

    `integers` are the weights that have an integer form. `reals` are all others, which stay real in every file: biases,
    norms. `both` are those among the weights that something else reads as real numbers. `tables` are the embeddings
    that are no layer's weight and the matrices of recurrent layers: a byte a number where layers are integers. `steps`
    are the rows of these matrices, each of which has one.
    """

    integers: int
    reals: int
    both: int = 0
    tables: int = 0
    steps: int = 0

    @property
    def numbers(self) -> int:
        """How many numbers a float file holds."""
        return self.integers + self.reals + self.tables - self.both


def stored(trace: Trace, operations: Iterable[fx.Node], constants: Mapping[fx.Node, int]) -> Stored:
    """What `operations` read of the network's `constants`, given with how many numbers they are."""
    integers: dict[Hashable, int] = {}
    reals: dict[Hashable, int] = {}
    tables: dict[Hashable, int] = {}
    rows: dict[Hashable, int] = {}
    for node in operations:
        weight = integer_weight(node, constants.__contains__)
        if weight is not None:
            integers[_identity(trace, weight)] = constants[weight]
        if operation(node) == "batch_norm":
            reals[node] = _of_norm(node, constants.__contains__)
            continue
        read = {each for each in node.all_input_nodes if each in constants and each is not weight}
        matrices = {each for each in read if _is_matrix(each, node)}
        rows |= {_identity(trace, each): int(each.meta["val"].shape[0]) for each in matrices}
        small = read if traits_of(node) & Trait.LOOKUP else matrices
        tables |= {_identity(trace, each): constants[each] for each in small}
        reals |= {_identity(trace, each): constants[each] for each in read - small}
    both = sum(integers[each] for each in integers.keys() & reals.keys())
    alone = tables.keys() - integers.keys() - reals.keys()
    steps = sum(rows[each] for each in alone & rows.keys())
    return Stored(sum(integers.values()), sum(reals.values()), both, sum(tables[each] for each in alone), steps)


def _is_matrix(constant: fx.Node, reader: fx.Node) -> bool:
    """Whether a recurrent layer multiplies by it."""
    return bool(traits_of(reader) & Trait.RECURRENT) and constant.meta["val"].dim() == 2


def _identity(trace: Trace, constant: fx.Node) -> Hashable:
    """The same for all names of one tensor."""
    tensor = trace.tensor(constant)
    return constant if tensor is None else id(tensor)


def _of_norm(norm: fx.Node, is_constant: Callable[[object], bool]) -> int:
    """What is left of a batch norm: a scale and a shift, or the bias of the layer before it, if that had none."""
    layer, channels = cast("fx.Node", norm.args[0]), int(norm.meta["val"].shape[1])
    weight = integer_weight(layer, is_constant)
    if weight is None or len(layer.users) > 1:
        return 2 * channels
    return channels if len(layer.all_input_nodes) == 2 else 0


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
        super().__init__(trace.structure.network)
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
    users: dict[int, list[fx.Node]] = {}
    counts: dict[int, int] = {}
    for node in trace.graph.find_nodes(op="placeholder"):
        tensor = trace.tensor(node)
        if tensor is not None and trace.weights[node.name] in trace.structure.parameters:
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
