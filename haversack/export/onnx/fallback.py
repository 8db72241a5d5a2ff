"""Fallback: torch's own ONNX exporter, for operations that our writer does not know."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, fx

from haversack.errors import ExportError
from haversack.export.onnx.file import OPSET


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
    """The graph exported anew, its batch as free as it was."""
    values = [node.meta["val"] for node in graph_module.graph.find_nodes(op="placeholder")]
    inputs = tuple(_sample(value) for value in values)
    return torch.export.export(graph_module, inputs, dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in inputs))


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
