"""ONNX files for ONNX Runtime: our own small writer, and torch's exporter for what it does not know.

A new operation is one small function in `operators/` and one line in that file's TABLE.
"""

from __future__ import annotations

from torch import fx

from haversack.artifact import Files, Runtime
from haversack.runtimes.onnx.write import write, write_any

__all__ = ["RUNTIME", "write", "write_any"]


def _files(lowered: fx.GraphModule) -> Files:
    return {"model.onnx": write_any(lowered)}


RUNTIME = Runtime("onnx", frozenset({"float32", "float16", "int8"}), _files)
