"""Writer: a folded graph becomes the bytes of an ONNX file in a fraction of a second, or torch's exporter's."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import cast

import onnx
import torch
from onnx import helper
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.graph.trace import arguments_of, computes_tensors
from haversack.lengths import BATCH
from haversack.progress import note
from haversack.runtimes.onnx.call import (
    Call,
    Dim,
    NotComputedError,
    Values,
    constant_of,
    settled,
    sizes_of,
    unsupported,
)
from haversack.runtimes.onnx.file import OPSET
from haversack.runtimes.onnx.graph import FreeDim, OnnxGraph
from haversack.runtimes.onnx.operators import TABLE
from haversack.runtimes.onnx.storage import ELEMENT_TYPES

Written = dict[fx.Node, Values]
"""What each operation of the graph gave."""


def through_torch(graph_module: fx.GraphModule, reason: ExportError) -> bytes:
    """The ONNX file that torch.onnx.export makes; needs the package onnxscript. `reason` is why ours did not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(_program(graph_module), (), dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:
        raise _neither(reason, error) from error
    if exported is None:
        raise _neither(reason, RuntimeError("no file came out"))
    return bytes(exported.model_proto.SerializeToString())


def _program(graph_module: fx.GraphModule) -> torch.export.ExportedProgram:
    """The graph exported anew, its batch and its lengths as free as they were."""
    values = [node.meta["val"] for node in graph_module.graph.find_nodes(op="placeholder")]
    inputs = tuple(_sample(value) for value in values)
    free = graph_module.meta.get("free") or ((),) * len(inputs)
    shapes = tuple(dict.fromkeys((0, *dict(axes)), torch.export.Dim.AUTO) for axes in free)
    return torch.export.export(graph_module, inputs, dynamic_shapes=shapes)


def _sample(value: Tensor) -> Tensor:
    # Two where a size is free: torch.export takes 0 and 1 for fixed.
    sizes = [size if isinstance(size, int) else size.node.maybe_as_int() or 2 for size in value.shape]
    return torch.zeros(sizes, dtype=value.dtype)


def _neither(reason: ExportError, error: Exception) -> ExportError:
    first = next(iter(str(error).strip().splitlines()), "")
    return ExportError(
        f"{reason.what} torch.onnx.export cannot write it either: {type(error).__name__}: {first}",
        where=reason.where,
        mend="replace that operation in the layer's forward() by others.",
    )


def write(graph_module: fx.GraphModule, *, float16: bool = False) -> bytes:
    """An ONNX model that computes what the graph computes; free batch dimensions are named "batch".

    Free lengths are named as the graph's `meta["free"]` says. Its operator set is 18. Weights of 4
    bits or less are stored two a byte.

    The graph comes from `haversack.graph.fold`, with or without `quantized_decomposed` pairs; every operation's
    `meta["val"]` tells its shape. `float16` stores and computes in half precision between float32 inputs and outputs.
    Raises ExportError, naming operation and layer, when it does not know one.
    """
    graph, values, inputs = _walked(graph_module, _written, float16=float16)
    outputs = _outputs(graph, graph_module, values)
    return graph.content(inputs, outputs)


def unknown(graph_module: fx.GraphModule) -> tuple[ExportError, ...]:
    """Every refusal of `write`, in order: all operations of the graph that it does not know, not only the first."""
    refusals = []

    def tried(graph: OnnxGraph, node: fx.Node, values: Written) -> Values:
        try:
            return _written(graph, node, values)
        except ExportError as refusal:
            refusals.append(refusal)
            return _stand_in(graph, node)

    _walked(graph_module, tried)
    return tuple(refusals)


def _walked(
    graph_module: fx.GraphModule, written: Callable[[OnnxGraph, fx.Node, Written], Values], *, float16: bool = False
) -> tuple[OnnxGraph, Written, list[onnx.ValueInfoProto]]:
    """The ONNX graph of all operations, what each gave, and the inputs."""
    names = [node.name for node in graph_module.graph.find_nodes(op="placeholder")]
    graph = OnnxGraph(float16=float16, mark=_mark(names))
    values: Written = {}
    free = iter(graph_module.meta.get("free", ()))
    inputs = []
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            inputs.append(_input(graph, node, values, dict(next(free, ()))))
        elif node.op == "get_attr":
            values[node] = graph.constant(constant_of(graph_module, node), exact=_is_of_quantization(node))
        elif node.op == "call_function" and computes_tensors(node):
            values[node] = written(graph, node, values)
    return graph, values, inputs


def _stand_in(graph: OnnxGraph, node: fx.Node) -> Values:
    """Values of the right types where an operation cannot be written."""
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return tuple(graph.node("Unknown", dtype=each.dtype) for each in value if isinstance(each, Tensor))
    return graph.node("Unknown", dtype=value.dtype if isinstance(value, Tensor) else torch.float32)


def write_any(graph_module: fx.GraphModule, *, float16: bool = False) -> bytes:
    """What `write` gives, or, where it does not know an operation, what torch.onnx.export makes of the graph.

    torch's exporter takes seconds where ours takes milliseconds, needs the package onnxscript and writes no float16;
    that it is used is said to whoever listens. Raises ExportError where it cannot be used.
    """
    try:
        return write(graph_module, float16=float16)
    except NotComputedError:
        raise
    except ExportError as error:
        if float16:
            raise ExportError(error.what, where=error.where, mend="keep this network in float32.") from error
        if find_spec("onnxscript") is None:
            raise
        note(f"{error.where}: {error.what} torch.onnx.export writes the file instead, which takes many seconds.")
        return through_torch(graph_module, error)


def _mark(inputs: Sequence[str]) -> str:
    """What sets our names for values apart from those of the inputs: as few underscores as that takes."""
    marks = ("_" * count for count in itertools.count())
    return next(mark for mark in marks if not any(re.match(rf"{mark}[aw]\d", name) for name in inputs))


def _input(graph: OnnxGraph, node: fx.Node, values: Written, called: Mapping[int, str]) -> onnx.ValueInfoProto:
    """An input; `called` are the names of its free lengths."""
    value = node.meta["val"]
    for index, dim in enumerate(sizes_of(value)):
        if not isinstance(dim, int):
            graph.free.setdefault(str(dim), FreeDim(called.get(index) or _batch(graph), node.name, index))
    graph.types[node.name] = value.dtype
    values[node] = graph.cast(node.name, graph.stored_type(value.dtype))
    return _info(graph, node.name, value)


def _batch(graph: OnnxGraph) -> str:
    """The next name of a free batch, which no length has."""
    taken = {free.name for free in graph.free.values()}
    return next(name for count in itertools.count() if (name := f"{BATCH}{count or ''}") not in taken)


def _info(graph: OnnxGraph, name: str, value: Tensor) -> onnx.ValueInfoProto:
    shape = [_dim(graph, dim) for dim in sizes_of(value)]
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[value.dtype], shape)


def _dim(graph: OnnxGraph, dim: Dim) -> int | str:
    if isinstance(dim, int):
        return dim
    names = {symbol: free.name for symbol, free in graph.free.items()}
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(dim))


def _is_of_quantization(node: fx.Node) -> bool:
    return any(str(user.target).startswith("quantized_decomposed.") for user in node.users)


def _written(graph: OnnxGraph, node: fx.Node, values: Written) -> Values:
    name = str(node.target) if isinstance(node.target, torch._ops.OpOverload) else getattr(node.target, "__name__", "")  # noqa: SLF001
    write_operation = TABLE.get(name) or TABLE.get(name.rpartition(".")[0])
    if write_operation is None:
        raise unsupported(node)
    return write_operation(Call(node, graph, settled(arguments_of(node)), values))


def _outputs(graph: OnnxGraph, graph_module: fx.GraphModule, values: Written) -> list[onnx.ValueInfoProto]:
    given = graph_module.graph.output_node().args[0]
    nodes = cast("tuple[fx.Node, ...]", given if isinstance(given, tuple | list) else (given,))
    names: dict[str, str] = {}
    known = filter(str.isidentifier, graph_module.meta.get("outputs", ()))
    counted = (f"output{index or ''}" for index in itertools.count())
    free = (name for name in itertools.chain(known, counted) if name not in graph.types)
    for node in nodes:
        value = graph.cast(cast("str", values[node]), node.meta["val"].dtype)
        produced = any(value in producer.output for producer in graph.nodes)
        value = value if produced and value not in names else graph.node("Identity", value)
        names[value] = next(free)
    graph.drop_unread(list(names))
    graph.rename(names)
    return [_info(graph, name, node.meta["val"]) for name, node in zip(names.values(), nodes, strict=True)]
