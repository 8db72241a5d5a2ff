"""ONNX files in ONNX Runtime: opened in this process, and what stands in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haversack.disk import scratch_folder
from haversack.errors import MeasureError
from haversack.runtimes import Arrays, Contents, File, Opened, Orders
from haversack.runtimes.files import name_of
from haversack.runtimes.process import ask

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_INTEGER_LAYERS = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"})
_INTEGER_OPERATORS = _INTEGER_LAYERS | frozenset(
    (
        *("ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QAttention"),
        *("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QEmbedLayerNormalization"),
    )
)


def open_file(file: File, threads: int | None, _orders: Orders | None = None, *, optimized: bool = True) -> Opened:
    """The file in ONNX Runtime; inputs are cast to the numbers that it wants, never a fraction to an integer."""
    from haversack.runtimes.onnx import worker
    from haversack.runtimes.turns import RefusedError

    where = name_of(file)
    try:
        session = worker.open_session(file if isinstance(file, bytes) else str(file), threads, plain=not optimized)
        kinds = [worker.number_type(wanted) for wanted in session.get_inputs()]
    except RefusedError as refused:
        raise MeasureError(refused.what, where=where, mend=refused.mend) from refused
    shapes = [wanted.shape for wanted in session.get_inputs()]
    batch = next((shape[0] for shape in shapes if shape and isinstance(shape[0], int)), None)

    def prepare(arrays: Arrays) -> list[Array]:
        return [cast_to(array, kind, where) for array, kind in zip(arrays, kinds, strict=True)]

    def run(arrays: Arrays) -> list[Array]:
        feed = {wanted.name: array for wanted, array in zip(session.get_inputs(), arrays, strict=True)}
        try:
            return list(session.run(None, feed))
        except Exception as error:
            raise MeasureError(f"ONNX Runtime cannot run it: {worker.explain_run(error)}", where=where) from error

    return Opened(len(kinds), batch, prepare, run)


def empty() -> bytes:
    """A file that only copies four numbers."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def contents(path: Path, threads: int) -> Contents:
    """The operators of the file at `path`, before and after the runtime's rewriting, and its bytes."""
    operators, disk_bytes = _read(path)
    as_run = _operators_as_run(path, threads)
    integer = sum(count for name, count in as_run.items() if _on_integers(name))
    layers = sum(count for name, count in as_run.items() if name in _INTEGER_LAYERS)
    return Contents(operators, as_run, integer, layers, disk_bytes, tuple(_warnings(operators, as_run, integer)))


def cast_to(array: Array, kind: type, where: str) -> Array:
    """The array as numbers of that kind; a MeasureError where that would round."""
    import numpy as np

    if np.issubdtype(array.dtype, np.floating) and not issubclass(kind, np.floating):
        raise MeasureError(
            f"it wants {np.dtype(kind)} inputs, but was given {array.dtype}.",
            where=where,
            mend="quantize the inputs as the file's input grid says, or export a file with float inputs.",
        )
    return array.astype(kind, copy=False)


def _read(path: Path) -> tuple[dict[str, int], int]:
    """How often each operator stands in the file, and its bytes with those of its external data."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise MeasureError(f"it cannot be read: {error.strerror}.", where=str(path)) from error
    except Exception as error:
        raise MeasureError("this is not an ONNX file, or it is cut short.", where=str(path)) from error
    places = (
        entry.value for tensor in _tensors(model.graph) for entry in tensor.external_data if entry.key == "location"
    )
    parts = {path.parent / place for place in places}
    lost = sorted(part.name for part in parts if not part.is_file())
    if lost:
        raise MeasureError(
            f"its external data {', '.join(lost)} is missing.", where=str(path), mend="put it beside the model."
        )
    return _counted(model.graph), sum(part.stat().st_size for part in (path, *parts))


def _tensors(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - onnx.GraphProto
    """Every stored tensor of the graph and its subgraphs."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _counted(graph: Any) -> dict[str, int]:  # noqa: ANN401 - onnx.GraphProto
    """Operators by name, the most frequent first; those of subgraphs are included."""
    counts = Counter(node.op_type for node in graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                counts.update(_counted(inner))
    return dict(counts.most_common())


def _operators_as_run(path: Path, threads: int) -> dict[str, int]:
    import onnx

    with scratch_folder() as folder:
        optimized = folder / "optimized.onnx"
        ask("operators", [path], threads, optimized=str(optimized))
        return _counted(onnx.load(optimized, load_external_data=False).graph)


def _on_integers(operator: str) -> bool:
    return operator.startswith("QLinear") or operator in _INTEGER_OPERATORS


def _warnings(operators: Mapping[str, int], as_run: Mapping[str, int], integer: int) -> Iterator[str]:
    """What makes a quantized file slower than it could be."""
    if not any(name in _CONVERSIONS or _on_integers(name) for name in operators):
        return
    if integer == 0:
        yield "the file is quantized, but the runtime computes nothing in integers: it only gets smaller."
    left = sorted(name for name in ("Conv", "Gemm", "MatMul", "FusedConv", "FusedMatMul") if as_run.get(name))
    if integer and left:
        yield f"the runtime still computes in float: {', '.join(f'{as_run[name]} {name}' for name in left)}."
