"""ONNX files in OpenVINO's CPU plugin, in this process: a second runtime for the same file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haversack.errors import MeasureError
from haversack.runtimes import Arrays, File, Opened, Orders
from haversack.runtimes.files import name_of
from haversack.runtimes.onnx.run import cast_to

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_EXACT = {
    "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where the processor has it
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",  # and 8-bit inputs to layers of which only the weights are integers
    "NUM_STREAMS": "1",
}
"""What keeps OpenVINO from computing in fewer bits than the file says."""


def open_file(
    file: File,
    threads: int | None,
    _orders: Orders | None = None,
    *,
    optimized: bool = True,  # noqa: ARG001 - it cannot be told to run a file as it stands
) -> Opened:
    """The file in OpenVINO; inputs are cast to the numbers that it wants, never a fraction to an integer."""
    import numpy as np

    where = name_of(file)
    compiled = _compiled(file, threads, where)
    kinds = [wanted.element_type.to_dtype().type for wanted in compiled.inputs]
    shapes = [wanted.partial_shape for wanted in compiled.inputs]
    batch = next((shape[0].get_length() for shape in shapes if len(shape) and shape[0].is_static), None)

    def prepare(arrays: Arrays) -> list[Array]:
        return [cast_to(array, kind, where) for array, kind in zip(arrays, kinds, strict=True)]

    def run(arrays: Arrays) -> list[Array]:
        try:
            found = compiled(list(arrays))
            return [np.array(found[place]) for place in range(len(compiled.outputs))]
        except Exception as error:
            raise MeasureError(f"OpenVINO cannot run it: {_plain(error)}", where=where) from error

    return Opened(len(kinds), batch, prepare, run)


def _compiled(file: File, threads: int | None, where: str) -> Any:  # noqa: ANN401 - OpenVINO's own class
    import openvino

    settings = dict(_EXACT) | ({"INFERENCE_NUM_THREADS": str(threads)} if threads is not None else {})
    try:
        core = openvino.Core()
        return core.compile_model(core.read_model(file), "CPU", settings)
    except Exception as error:
        raise MeasureError(
            f"OpenVINO {openvino.__version__} cannot load it: {_plain(error)}",
            where=where,
            mend="install a newer OpenVINO, or run the file in ONNX Runtime.",
        ) from error


def _plain(error: Exception) -> str:
    """OpenVINO's message without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return (said or lines or [type(error).__name__])[-1][:300]
