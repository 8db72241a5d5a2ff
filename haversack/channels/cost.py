"""What a network costs for every choice of how many channels each group keeps, without tracing it again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import fx, nn

from haversack.channels.book import operation_name, sizes
from haversack.channels.groups import ChannelGroup
from haversack.graph.cost import cost, merged_tensors
from haversack.graph.trace import Trace

Measure = Literal["macs", "parameters", "latency"]
Counts = NDArray[np.int64]
# What moving one element costs, in multiply-accumulates: about 30 GMAC/s against 12 GB/s on one core.
_MACS_PER_ELEMENT = 10.0


@dataclass(frozen=True)
class _Term:
    """A factor times the product of some dimensions of one tensor, the channels rounded up to whole blocks."""

    factor: float
    tensor: str
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    block: int = 1


class ChannelCost:
    """A sum of products of channel counts."""

    def __init__(self, terms: Sequence[_Term], groups: Sequence[ChannelGroup], rest: float = 0.0) -> None:
        widths: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for place, group in enumerate(groups):
            for member in group.members:
                widths.setdefault((member.tensor, member.dim), []).append((place, len(member.indices[0])))
        shape = (len(terms), max((len(term.dims) for term in terms), default=1))
        self._full = np.array([group.size for group in groups], dtype=np.int64)
        self._factor = np.array([term.factor for term in terms])
        self._block = np.ones(shape, dtype=np.int64)
        self._sizes = np.ones(shape, dtype=np.int64)
        self._widths = np.zeros((len(groups), *shape), dtype=np.int64)
        self._rest = rest
        for row, term in enumerate(terms):
            self._sizes[row, : len(term.shape)] = term.shape
            self._block[row, [column for column, dim in enumerate(term.dims) if dim < 2]] = term.block
            for column, dim in enumerate(term.dims):
                for place, width in widths.get((term.tensor, dim), ()):
                    self._widths[place, row, column] = width
        self._rows = [np.flatnonzero(each.any(1)) for each in self._widths]

    def of(self, kept: Counts) -> float:
        """The cost when group i keeps `kept[i]` of its channels."""
        return float(self._products(self._left(kept), slice(None)).sum() + self._rest)

    def savings(self, kept: Counts, fewer: Counts) -> NDArray[np.float64]:
        """How much cheaper it gets when group i alone loses `fewer[i]` more."""
        left = self._left(kept)
        saved = np.zeros(len(self._full))
        for place in np.flatnonzero(fewer):
            rows = self._rows[place]
            less = left[rows] - self._widths[place, rows] * fewer[place]
            saved[place] = (self._products(left[rows], rows) - self._products(less, rows)).sum()
        return saved

    def _left(self, kept: Counts) -> Counts:
        left: Counts = self._sizes - np.tensordot(self._full - kept, self._widths, axes=1)
        return left

    def _products(self, left: Counts, rows: slice | NDArray[np.intp]) -> NDArray[np.float64]:
        block = self._block[rows]
        # A depthwise kernel's single input channel fills no block of its own.
        whole = np.where(left == 1, 1, -(-left // block) * block)
        products: NDArray[np.float64] = self._factor[rows] * whole.prod(1)
        return products


def channel_cost(
    trace: Trace, module: nn.Module, groups: Sequence[ChannelGroup], measure: Measure, multiple: int
) -> ChannelCost:
    """The cost model of a traced network: multiply-accumulates and parameters are exact.

    `latency` is an estimate in multiply-accumulates of a runtime with blocked kernels, which fill channels up to
    `multiple`, plus the elements written and the weights read. It ranks choices; what they gain has to be measured.
    """
    gone = merged_tensors(trace)
    if measure == "parameters":
        return ChannelCost([each for each in _parameters(module) if each.tensor not in gone], groups)
    operations = [(each, out) for each, out in _operations(trace) if each.tensor not in gone]
    if measure == "macs":
        terms = [*(macs for macs, _ in operations), *_of_activations(trace)]
        others = cost(trace).macs - sum(term.factor * math.prod(term.shape) for term in terms)
        return ChannelCost(terms, groups, others)
    terms = []
    for macs, out in operations:
        terms += [
            replace(macs, block=multiple),
            _Term(macs.factor * _MACS_PER_ELEMENT, macs.tensor, (out,), (macs.shape[out],)),
            replace(macs, factor=_MACS_PER_ELEMENT),
        ]
    return ChannelCost(terms, groups)


def _parameters(module: nn.Module) -> Iterator[_Term]:
    for name, parameter in module.named_parameters():
        yield _Term(1.0, name, tuple(range(parameter.dim())), tuple(parameter.shape))


def _operations(trace: Trace) -> Iterator[tuple[_Term, int]]:
    """The multiply-accumulates of each product with a weight, and the weight's dimension of output channels."""
    weights = {node: trace.weights[node.name] for node in trace.graph.nodes if node.name in trace.weights}
    batch = _batch(trace)
    for node in trace.operations():
        for weight, positions, out in _recurrent(node) or _product(node):
            if weight in weights:
                shape = sizes(weight)
                factor = positions // batch if positions % batch == 0 else positions
                yield _Term(float(factor), weights[weight], tuple(range(len(shape))), shape), out


def _recurrent(node: fx.Node) -> list[tuple[fx.Node, int, int]]:
    """The matrices of a recurrent layer, each used once a step."""
    if operation_name(node) not in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return []
    steps = math.prod(sizes(node.all_input_nodes[0])[:-1])
    return [(each, steps, 0) for each in node.all_input_nodes if each.op == "placeholder" and len(sizes(each)) == 2]


def _product(node: fx.Node) -> list[tuple[fx.Node, int, int]]:
    """The weight of a node that is a product, how often each of its elements is used, and its output dimension."""
    name, tensors = operation_name(node), [each for each in node.args if isinstance(each, fx.Node)]
    if name.startswith("conv") and len(tensors) > 1:
        transposed = name.startswith("conv_transpose") or (name == "convolution" and node.args[6] is True)
        data, weight = tensors[:2]
        swept = sizes(data if transposed else node)
        channel = len(swept) - len(sizes(weight)) + 1
        return [(weight, math.prod((*swept[:channel], *swept[channel + 1 :])), 1 if transposed else 0)]
    if name == "linear":
        return [(tensors[1], math.prod(sizes(tensors[0])[:-1]), 0)]
    if name in ("matmul", "mm", "bmm", "addmm"):
        left, right = tensors[-2:]
        if right.op == "placeholder":
            return [(right, math.prod(sizes(left)[:-1]), len(sizes(right)) - 1)]
        return [(left, math.prod(sizes(right)) // sizes(right)[max(len(sizes(right)) - 2, 0)], 0)]
    return []


def _of_activations(trace: Trace) -> Iterator[_Term]:
    """Products of two activations, such as attention's: they grow with the layer that an operand comes from."""
    batch = _batch(trace)
    for node in trace.operations():
        for operand, macs in _operands(node):
            layer = _maker(operand)
            for weight, _, out in _product(layer) if layer is not None else ():
                name = trace.weights.get(weight.name)
                if name is not None:
                    rows = sizes(weight)[out]
                    yield _Term(macs / batch / rows, name, (out,), (rows,))


def _operands(node: fx.Node) -> list[tuple[fx.Node, int]]:
    """The operands of a product that hold channels, and the multiply-accumulates that they cause."""
    name, tensors = operation_name(node), [each for each in node.args if isinstance(each, fx.Node)]
    if name == "scaled_dot_product_attention":
        query, key, value = tensors[:3]
        tokens = sizes(key)[-2]
        return [(query, math.prod(sizes(query)) * tokens), (value, math.prod(sizes(node)) * tokens)]
    if name in ("matmul", "bmm") and all(each.op != "placeholder" for each in tensors):
        found = [(each, math.prod(sizes(node)) * sizes(tensors[0])[-1]) for each in tensors if _maker(each) is not None]
        return found[:1]
    return []


_MOVES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "transpose", "permute", "t", "squeeze", "unsqueeze"),
    *("getitem", "unbind", "select", "chunk", "split", "contiguous", "clone", "expand", "mul", "div", "dropout"),
}


def _maker(value: fx.Node) -> fx.Node | None:
    """The layer with a weight that a value is, but for scaling and the order of its elements."""
    while operation_name(value) in _MOVES and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return value if value.op == "call_function" and _product(value) else None


def _batch(trace: Trace) -> int:
    """The size that stands for the batch in this trace, free or fixed."""
    inputs = [node for node in trace.graph.find_nodes(op="placeholder") if node.name not in trace.weights]
    return min((sizes(node)[0] for node in inputs if sizes(node)), default=1)
