"""Fallback: torch's own ONNX exporter, for operations that our writer does not know."""

from __future__ import annotations

import warnings

import torch

from haversack.errors import ExportError
from haversack.export.onnx.graph import OPSET


def through_torch(program: torch.export.ExportedProgram, reason: ExportError) -> bytes:
    """The ONNX file that torch.onnx.export makes; needs the package onnxscript. `reason` is why ours did not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET, verbose=False)
    except Exception as error:
        raise _neither(reason, error) from error
    if exported is None:
        raise _neither(reason, "no file came out")
    return bytes(exported.model_proto.SerializeToString())


def _neither(reason: ExportError, error: Exception | str) -> ExportError:
    first = next(iter(str(error).strip().splitlines()), "")
    return ExportError(
        f"{reason.what} torch.onnx.export cannot write it either: {type(error).__name__}: {first}",
        where=reason.where,
        mend="replace that operation in the layer's forward() by others.",
    )
