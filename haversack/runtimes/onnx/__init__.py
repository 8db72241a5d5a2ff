"""ONNX files for ONNX Runtime, and for OpenVINO: our own small writer, and torch's exporter for what it does not know.

A new operation is one small function in `operators/` and one line in that file's TABLE.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haversack.runtimes import Around, FileFormat, Runtime
from haversack.runtimes.onnx import openvino, run

if TYPE_CHECKING:
    from torch import fx


def _written(lowered: fx.GraphModule) -> bytes:
    from haversack.runtimes.onnx.write import write_any

    return write_any(lowered)


ONNX = Runtime(
    name="onnx",
    title="ONNX Runtime",
    format=FileFormat("model.onnx", "ONNX", Path(__file__).with_name("worker.py"), run.empty, run.contents),
    number_formats=frozenset({"float32", "float16", "int8"}),
    write=_written,
    open=run.open_file,
    packages=("onnx", "onnxruntime"),
    install="pip install onnx onnxruntime",
    around=Around(120, 430, 1, 24, derived_steps=True),
    integer_ports=True,
    maps_channels_last=True,
    free_lengths=True,
    signed_mend="Files for LiteRT (--runtime litert) are computed in integers here too.",
)
OPENVINO = Runtime(
    name="openvino",
    title="OpenVINO",
    format=ONNX.format,
    number_formats=ONNX.number_formats,
    write=_written,
    open=openvino.open_file,
    packages=("openvino",),
    install="pip install 'haversack[openvino]'",
    host_only=True,
    optional=True,
    free_lengths=True,
)
ROWS = (ONNX, OPENVINO)
