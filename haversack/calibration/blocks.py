"""Blocks: the inference graph in pieces that one value after another flows through, and how to run a piece.

A cut is a value that everything later depends on and that is not inside a quantize/dequantize pair: after each layer
of a plain network, after each sum of a residual network. BRECQ (Li et al. 2021, section 3.2) reconstructs such pieces;
here they are found on the graph, whatever the architecture.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from haversack.graph.pairs import pairs


def round_to_steps(x: Tensor, steps: Tensor, low: int, high: int, gradient_scale: float = 1.0) -> Tensor:
    """`x` moved to the nearest of `low * steps`..`high * steps`, whole multiples of `steps`, ties to even.

    The gradient passes to `x` where it lies between the two ends; to a step goes what LSQ says: (rounded - x) / step
    there and the end's integer elsewhere, times the output's gradient and `gradient_scale`, summed over the numbers
    that share the step. `steps` broadcasts to the shape of `x`.
    """
    return cast("Tensor", _LearnedSteps.apply(x, steps, (low, high), gradient_scale))  # type: ignore[no-untyped-call]


class _LearnedSteps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: Tensor, ends: tuple[int, int], gradient_scale: float) -> Tensor:  # noqa: ANN401
        # In place and in float32: several times faster on CPUs than torch's own kernels, which are not vectorized.
        rounded = (x.float() * steps.reciprocal()).round_().clamp_(*ends).mul_(steps).to(x.dtype)
        ctx.save_for_backward(x, steps, rounded)
        ctx.ends, ctx.gradient_scale = ends, gradient_scale
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, steps, rounded = ctx.saved_tensors
        (gradient,) = gradients
        passed = _between(gradient, x, *(steps * end for end in ctx.ends))
        to_steps = None
        if ctx.needs_input_grad[1]:
            # Where the gradient passes, gradient x (rounded - x); elsewhere x drops out.
            shares = torch.addcmul(gradient * rounded, passed, x, value=-1)
            to_steps = shares.sum_to_size(steps.shape).float() / steps * ctx.gradient_scale
        return passed, to_steps, None, None


def _between(gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The gradient where x lies between the ends, and zero elsewhere."""
    if low.numel() == 1:
        # One pass over what may be a large map.
        return torch.ops.aten.hardtanh_backward(gradient, x, float(low), float(high))  # type: ignore[no-any-return]
    return gradient * ((x > low) & (x < high))


_QUANTIZE = pairs.quantize_per_tensor.default
_DEQUANTIZE = pairs.dequantize_per_tensor.default

Sizes = Mapping[fx.Node, int | float]


@dataclass(frozen=True)
class Block:
    """Operations in order, the values they read from before, those that later ones or the user read, and weights."""

    nodes: tuple[fx.Node, ...]
    reads: tuple[fx.Node, ...]
    writes: tuple[fx.Node, ...]
    weights: frozenset[str]


def blocks(graph: fx.Graph, weights: Collection[str]) -> tuple[Block, ...]:
    """The smallest pieces between cuts that hold one of `weights` each; the whole network where nothing cuts it.

    The graph has pairs around its values (`insert`) or none.
    """
    pieces: list[list[fx.Node]] = []
    for piece in _between_cuts(graph):
        if pieces and not (_weights(piece, weights) and _weights(pieces[-1], weights)):
            pieces[-1] += piece
        else:
            pieces.append(piece)
    return tuple(_block(piece, weights) for piece in pieces)


def run(
    block: Block, values: Sequence[Any], tensors: Mapping[str, Tensor], sizes: Sizes, *, rounded: bool
) -> tuple[Any, ...]:
    """What the block writes, given what it reads: on the grids of its pairs, or, not `rounded`, in float.

    `tensors` holds the weights; gradients pass through the rounding as if it were not there and stop where it clamps
    (Bengio et al. 2013). `sizes` are the numbers that shapes are made of (`sizes_of`).
    """
    known: dict[fx.Node, Any] = {**sizes, **dict(zip(block.reads, values, strict=True))}
    for node in block.nodes:
        if node.op == "get_attr":
            known[node] = tensors[str(node.target)]
        elif node not in known:
            known[node] = _value(node, known, rounded=rounded)
    return tuple(known[node] for node in block.writes)


def sizes_of(graph: fx.Graph, values: Sequence[Any], tensors: Mapping[str, Tensor]) -> Sizes:
    """Every number (not tensor) that the network computes from inputs shaped like `values`."""
    known: dict[fx.Node, Any] = dict(zip(graph.find_nodes(op="placeholder"), values, strict=True))
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "get_attr":
                known[node] = tensors[str(node.target)]
            elif node.op == "call_function":
                known[node] = _value(node, known, rounded=False)
    return {node: value for node, value in known.items() if isinstance(value, int | float)}


def _between_cuts(graph: fx.Graph) -> Iterator[list[fx.Node]]:
    """The graph's operations in order, in pieces that end where exactly one value is still read."""
    output = graph.output_node()
    piece: list[fx.Node] = []
    living: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        piece.append(node)
        if not _flows(node):
            continue
        for source in node.all_input_nodes:
            if source in living:
                living[source] -= 1
                if not living[source]:
                    del living[source]
        readers = sum(_flows(user) for user in node.users)
        if readers:
            living[node] = readers
        if list(living) == [node] and _is_real(node) and output not in node.users:
            yield piece
            piece = []
    yield piece


def _flows(node: fx.Node) -> bool:
    """Whether the node computes from the network's input, sizes left out."""
    return node.op in ("placeholder", "call_function", "output") and not _is_size(node)


def _is_real(node: fx.Node) -> bool:
    """Whether the value is one tensor of real numbers that is not yet, or no longer, on a grid."""
    value = node.meta.get("val")
    known = node.op == "placeholder" or node.target in (_QUANTIZE, _DEQUANTIZE)
    return not known and isinstance(value, Tensor) and value.dtype.is_floating_point


def _is_size(node: fx.Node) -> bool:
    return node.op == "call_function" and isinstance(node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat)


def _weights(nodes: Collection[fx.Node], names: Collection[str]) -> set[str]:
    return {str(source.target) for node in nodes for source in node.all_input_nodes if source.op == "get_attr"} & {
        *names
    }


def _block(nodes: list[fx.Node], weights: Collection[str]) -> Block:
    inside = dict.fromkeys(node for node in nodes if _flows(node))
    sources = dict.fromkeys(source for node in inside for source in node.all_input_nodes)
    constants = [source for source in sources if source.op == "get_attr"]
    inputs = [node for node in inside if node.op == "placeholder"]
    before = [source for source in sources if source.op != "get_attr" and _flows(source) and source not in inside]
    written = (node for node in inside if any(_flows(user) and user not in inside for user in node.users))
    computed = (node for node in inside if node.op == "call_function")
    return Block((*constants, *computed), (*inputs, *before), tuple(written), frozenset(_weights(nodes, weights)))


def _value(node: fx.Node, known: Mapping[fx.Node, Any], *, rounded: bool) -> Any:  # noqa: ANN401 - what operations return
    arguments = fx.map_arg((node.args, node.kwargs), lambda argument: known[argument])
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", arguments)
    if node.target is _QUANTIZE:
        real, scale, zero, low, high = args[:5]
        if rounded:
            real = round_to_steps(real, torch.tensor([scale]), low - zero, high - zero)
        return real if _stays_real(node) else real / scale + zero
    if node.target is _DEQUANTIZE:
        values, scale, zero = args[:3]
        return values if _stays_real(node.all_input_nodes[0]) else (values - zero) * scale
    operation: Any = node.target
    return operation(*args, **kwargs)


def _stays_real(node: fx.Node) -> bool:
    """Whether a quantization's result is dequantized at once, so that nobody needs it in steps."""
    return node.target is _QUANTIZE and all(user.target is _DEQUANTIZE for user in node.users)
