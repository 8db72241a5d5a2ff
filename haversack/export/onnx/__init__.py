"""ONNX files for ONNX Runtime: our own small writer, and torch's exporter for what it does not know.

A new operation is one small function in `operators/` and one line in that file's TABLE.
"""

from __future__ import annotations

import torch
from torch import fx

from haversack.artifact import Files, Runtime
from haversack.export.onnx.writer import write, write_any

__all__ = ["RUNTIME", "write", "write_any"]


def _files(lowered: fx.GraphModule) -> Files:
    return {"model.onnx": write_any(lowered, lambda: _program(lowered))}


def _program(lowered: fx.GraphModule) -> torch.export.ExportedProgram:
    values = [node.meta["val"] for node in lowered.graph.find_nodes(op="placeholder")]
    inputs = tuple(
        torch.zeros([2 if isinstance(d, torch.SymInt) else d for d in v.shape], dtype=v.dtype) for v in values
    )
    free = tuple({0: torch.export.Dim.AUTO} if isinstance(v.shape[0], torch.SymInt) else None for v in values)
    return torch.export.export(lowered, inputs, dynamic_shapes=(free,))


RUNTIME = Runtime("onnx", frozenset({"float32", "float16", "int8"}), _files)
