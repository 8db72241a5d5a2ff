"""TFLite files in LiteRT: opened in this process for inputs in torch's layout, and what stands in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haversack.errors import MeasureError
from haversack.runtimes import Arrays, Contents, File, Opened, Orders, process
from haversack.runtimes.files import name_of
from haversack.runtimes.ports import opened, ports_of
from haversack.runtimes.process import ask

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_CONVERSIONS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_LAYERS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL"})


def open_file(file: File, threads: int | None, orders: Orders | None = None, *, optimized: bool = True) -> Opened:
    """The file in LiteRT. Inputs and outputs are real numbers in torch's layout, whatever the file's own are."""
    from haversack.runtimes.tflite import worker
    from haversack.runtimes.turns import RefusedError

    where = name_of(file)
    try:
        with process.caught():  # a line on XNNPACK
            source = file if isinstance(file, bytes) else str(file)
            interpreter = worker.open_interpreter(source, threads or 1, plain=not optimized)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        for wanted in inputs:
            worker.number_type(wanted)
    except RefusedError as refused:
        raise MeasureError(refused.what, where=where, mend=refused.mend) from refused

    def run(arrays: Arrays) -> list[Array]:
        try:
            worker.feed(interpreter, inputs, list(arrays))
            worker.invoke(interpreter)
        except RefusedError as refused:
            raise MeasureError(refused.what, where=where) from refused
        return [interpreter.get_tensor(each["index"]) for each in outputs]

    taken, given = ports_of(inputs, outputs, orders)
    return opened(taken, given, run, where)


def empty() -> bytes:
    """A file that only clamps four numbers."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RELU
    operator, graph, model = schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    operator.inputs, operator.outputs = [0], [1]
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [], [0], [1], [operator]
    for name in "xy":
        tensor = schema.TensorT()
        tensor.name, tensor.shape = name, [1, 4]
        graph.tensors.append(tensor)
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(512)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def contents(path: Path, threads: int) -> Contents:
    """The operators of the file at `path`, which of them XNNPACK took, and its bytes."""
    nodes = [Node(*node) for node in ask("operators", [path], threads)["nodes"]]
    stored = [node for node in nodes if node.name != "DELEGATE"]
    taken = _delegated(nodes)
    as_run = Counter(f"XNNPACK:{node.name}" if id(node) in taken else node.name for node in stored)
    computing = [node for node in stored if node.integer and node.name not in _CONVERSIONS]
    layers = [node for node in computing if node.name in _LAYERS]
    return Contents(
        dict(Counter(node.name for node in stored).most_common()),
        dict(as_run.most_common()),
        len(computing),
        len(layers),
        path.stat().st_size,
        tuple(_warnings(stored, taken)),
    )


@dataclass(frozen=True)
class Node:
    """One operator as the interpreter lists it."""

    name: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    integer: bool
    """Whether what it puts out are integers on a grid, or it multiplies by such."""


def _delegated(nodes: Sequence[Node]) -> set[int]:
    """The nodes (by `id`) that a delegate computes: all on the way from what it reads to what it puts out."""
    makers = {value: node for node in nodes if node.name != "DELEGATE" for value in node.outputs}
    taken: set[int] = set()
    for delegate in nodes:
        if delegate.name == "DELEGATE":
            wanted = list(delegate.outputs)
            while wanted:
                value = wanted.pop()
                maker = makers.get(value)
                if value in delegate.inputs or maker is None or id(maker) in taken:
                    continue
                taken.add(id(maker))
                wanted += maker.inputs
    return taken


def _warnings(stored: Sequence[Node], taken: set[int]) -> Iterator[str]:
    """What makes a file slower than it could be."""
    left = Counter(node.name for node in stored if id(node) not in taken)
    if left:
        names = ", ".join(f"{count} {name}" for name, count in left.most_common())
        yield f"XNNPACK leaves to the plain kernels: {names}."
    still = Counter(node.name for node in stored if node.name in _LAYERS and not node.integer)
    if still and any(node.integer for node in stored):
        names = ", ".join(f"{count} {name}" for name, count in still.most_common())
        yield f"the runtime still computes in float: {names}."
