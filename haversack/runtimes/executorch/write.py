""".pte files for ExecuTorch: torch's own export of the graph, with XNNPACK for what that computes.

The optional route for devices on which ExecuTorch runs already. The package `executorch` is needed to write the files
and to run them on this host; it takes seconds for what our own writers do in milliseconds.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import cast

import torch
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.graph.one_length import without_sizes
from haversack.graph.pairs import pairs
from haversack.graph.trace import layer_path
from haversack.lengths import require_fixed
from haversack.progress import note

aten = torch.ops.aten

_PER_TENSOR = {pairs.quantize_per_tensor.default, pairs.dequantize_per_tensor.default}
_PADS = {aten.pad.default, aten.constant_pad_nd.default}
_HALF_A_BYTE = 7
"""The largest integer of 4 bits."""

Settings = tuple[float, int, int, int, torch.dtype]


def write(lowered: fx.GraphModule) -> bytes:
    """An ExecuTorch program whose one method, `forward`, takes a batch of 1; XNNPACK computes all that it knows.

    Unsigned activations become the signed ones that XNNPACK wants: all integers shift by 128, and no result changes.
    Raises ExportError for number formats that XNNPACK does not compute in, and where `executorch` is not installed.
    """
    if find_spec("executorch") is None:
        raise ExportError("writing .pte files needs ExecuTorch.", mend="pip install 'haversack[executorch]'")
    require_fixed(lowered.meta.get("free", ()), "a .pte file")
    return _program(_for_xnnpack(without_sizes(lowered)))


def _for_xnnpack(lowered: fx.GraphModule) -> fx.GraphModule:
    """The same network in the patterns that XNNPACK's partitioner knows.

    They are a dequantization right before and a quantization right after each operation, also those that only move
    integers; signed activations; and biases that are real numbers, from which it makes the same 32-bit integers again.
    """
    network = copy.deepcopy(lowered)
    grids: dict[fx.Node, Settings] = {}
    for node in list(network.graph.nodes):
        if node.target is pairs.dequantize_per_channel.default:
            _constant(network, node)
        elif node.target is pairs.quantize_per_tensor.default:
            grids[node] = cast("Settings", node.args[1:])
        elif node.args and isinstance(node.args[0], fx.Node) and node.args[0] in grids:
            _among_pairs(node, grids)
    for node in network.graph.nodes:
        if node.target in _PER_TENSOR:
            node.args = (node.args[0], *_signed(node))
    for node in list(network.graph.nodes):
        if node.target is pairs.dequantize_per_tensor.default:
            _one_each(node)
        elif node.target is aten.cat.default:
            _on_one_grid(node)
    network.graph.lint()
    network.recompile()
    return network


def _among_pairs(node: fx.Node, grids: dict[fx.Node, Settings]) -> None:
    """Lets an operation that moves integers move the real numbers that they stand for."""
    if node.target is pairs.dequantize_per_tensor.default:
        return
    integers, graph = cast("fx.Node", node.args[0]), node.graph
    grid = grids[node] = grids[integers]
    if integers.target in _PER_TENSOR or _is_tensor(integers):
        with graph.inserting_before(node):
            real = graph.call_function(pairs.dequantize_per_tensor.default, (integers, *grid))
        node.replace_input_with(integers, real)
    if node.target in _PADS and len(node.args) > 2 and isinstance(node.args[-1], int | float):
        node.args = (*node.args[:-1], (node.args[-1] - grid[1]) * grid[0])
    if _is_tensor(node):
        with graph.inserting_after(node):
            rounded = graph.call_function(pairs.quantize_per_tensor.default, (node, *grid))
        node.replace_all_uses_with(rounded, lambda user: user is not rounded)
        rounded.meta, grids[rounded] = dict(node.meta), grid


def _one_each(real: fx.Node) -> None:
    """Gives each reader a dequantization of its own: the partitioner takes it along with the one reader."""
    for reader in list(real.users)[1:]:
        with real.graph.inserting_before(reader):
            reader.replace_input_with(real, real.graph.node_copy(real))


def _on_one_grid(joined: fx.Node) -> None:
    """Rounds what a concatenation reads to its result's grid already: the same integers, and XNNPACK demands it."""
    after = next(iter(joined.users))
    for value in joined.all_input_nodes:
        on_grids = after.target is pairs.quantize_per_tensor.default and value.target in _PER_TENSOR
        if on_grids and value.args[1:] != after.args[1:]:
            with joined.graph.inserting_before(joined):
                rounded = joined.graph.call_function(pairs.quantize_per_tensor.default, (value, *after.args[1:]))
                real = joined.graph.call_function(pairs.dequantize_per_tensor.default, (rounded, *after.args[1:]))
            joined.replace_input_with(value, real)


def _is_tensor(node: fx.Node) -> bool:
    """Whether it has one result; that of a split has several."""
    return isinstance(node.meta["val"], Tensor)


def _signed(node: fx.Node) -> Settings:
    scale, zero, low, high, dtype = cast("Settings", node.args[1:])
    if dtype is torch.uint8:
        return scale, zero - 128, low - 128, high - 128, torch.int8
    if dtype is not torch.int8:
        raise ExportError(
            f"XNNPACK computes nothing on {dtype} activations.".replace("torch.", ""),
            where=layer_path(node),
            mend="quantize activations to 8 bits for ExecuTorch.",
        )
    return scale, zero, low, high, dtype


def _constant(network: fx.GraphModule, node: fx.Node) -> None:
    """Checks a weight's integers, and makes real numbers of a bias's."""
    integers, scale, zero_point = (network.get_buffer(str(cast("fx.Node", each).target)) for each in node.args[:3])
    high = cast("int", node.args[5])
    if integers.dtype == torch.int32:
        name = f"{node.name}_real"
        network.register_buffer(name, (integers - zero_point).float() * scale)
        with network.graph.inserting_before(node):
            node.replace_all_uses_with(network.graph.get_attr(name))
        network.graph.erase_node(node)
    elif high <= _HALF_A_BYTE:
        raise ExportError(
            "XNNPACK's files store each weight in a byte, so that fewer bits would save nothing.",
            where=_layer(node),
            mend="use 8 bits for ExecuTorch, or choose another runtime.",
        )
    elif any(not _reads_integers(user) for user in node.users):
        raise ExportError(
            "XNNPACK does not compute with integer weights and real activations.",
            where=_layer(node),
            mend="quantize the activations too (quantize_static), or choose another runtime.",
        )


def _layer(weight: fx.Node) -> str:
    """The path of the layer whose weight this is."""
    reader = next(iter(weight.users))
    return layer_path(reader) or (_layer(reader) if reader.users else "")


def _reads_integers(layer: fx.Node) -> bool:
    value = layer.args[0]
    return isinstance(value, fx.Node) and value.target is pairs.dequantize_per_tensor.default


def _program(network: fx.GraphModule) -> bytes:
    inputs = tuple(_sample(node.meta["val"]) for node in network.graph.find_nodes(op="placeholder"))
    with _quiet():
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            exported = torch.export.export(network, inputs)
            program = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            content = bytes(program.to_executorch().buffer)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "")
            raise ExportError(
                f"ExecuTorch cannot write this network: {type(error).__name__}: {first}",
                mend="replace the operation that it names, or choose another runtime.",
            ) from error
    left = Counter(_not_delegated(program.exported_program().graph))
    if left:
        names = ", ".join(f"{count} {name}" for name, count in left.most_common())
        note(f"XNNPACK leaves to ExecuTorch's portable kernels, which are slow: {names}.")
    return content


def _sample(value: Tensor) -> Tensor:
    sizes = [size if isinstance(size, int) else size.node.maybe_as_int() or 1 for size in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)


def _not_delegated(graph: fx.Graph) -> Iterator[str]:
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) or "EdgeOpOverload" in type(node.target).__name__:  # noqa: SLF001
            yield str(node.target).removesuffix(".default")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps away what torchao and torch warn of when ExecuTorch is imported and lowers."""
    logger = logging.getLogger()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled = logger.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)
