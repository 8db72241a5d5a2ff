""".tflite files for LiteRT and LiteRT for Microcontrollers: our own small writer of the integer graph's bytes.

A new operation is one line in `schema.py`.
"""

from __future__ import annotations

from torch import fx

from haversack.artifact import Files, Runtime
from haversack.export.litert.writer import write
from haversack.graph.integer.read import read

__all__ = ["RUNTIME", "write"]


def _files(lowered: fx.GraphModule) -> Files:
    return {"model.tflite": write(read(lowered))}


RUNTIME = Runtime("litert", frozenset({"float32", "int16", "int8", "int4"}), _files)
