""".tflite files for LiteRT and LiteRT for Microcontrollers: our own small writer of the integer graph's bytes.

A new operation is one line in `schema.py`.
"""

from __future__ import annotations

from torch import fx

from haversack.artifact import Files, Orders, Runtime
from haversack.integer.read import read
from haversack.runtimes.tflite.write import write

__all__ = ["MICRO", "RUNTIME", "write"]


def _files(lowered: fx.GraphModule) -> Files:
    return {"model.tflite": write(read(lowered))}


def _micro_files(lowered: fx.GraphModule) -> Files:
    return {"model.tflite": write(read(lowered), micro=True)}


def _orders(lowered: fx.GraphModule) -> Orders:
    graph = read(lowered)
    return graph.input_orders, graph.output_orders


_FORMATS = frozenset({"float32", "int16", "int8", "int4"})
RUNTIME = Runtime("litert", _FORMATS, _files, _orders)
MICRO = Runtime("tflite-micro", _FORMATS, _micro_files, _orders)
