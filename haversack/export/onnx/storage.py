"""Storage: each constant of a file in the fewest bytes that still give exactly its numbers.

What techniques make of weights needs no flag to be stored well: integers of 4 bits are stored two a byte, numbers that
float16 holds exactly as float16, and a tensor of few different numbers as a codebook with an index an element (Han
2016). ONNX Runtime undoes it once, when it loads the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from onnx import helper
from torch import Tensor

ELEMENT_TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int8: onnx.TensorProto.INT8,
    torch.uint8: onnx.TensorProto.UINT8,
    torch.int16: onnx.TensorProto.INT16,
    torch.int32: onnx.TensorProto.INT32,
    torch.int64: onnx.TensorProto.INT64,
    torch.bool: onnx.TensorProto.BOOL,
}
# A node that unpacks costs some sixty bytes; below this many elements it never pays.
_LEAST_ELEMENTS = 128
_SAMPLE = 1024


@dataclass(frozen=True)
class Stored:
    """A constant's initializers, and the nodes that make its value of them."""

    tensors: tuple[onnx.TensorProto, ...]
    nodes: tuple[onnx.NodeProto, ...] = ()
    in_4_bits: bool = False


def stored(name: str, value: Tensor) -> Stored:
    """The smallest exact form of `value` under `name`."""
    if value.numel() >= _LEAST_ELEMENTS:
        if value.dtype == torch.int8 and int(value.min()) >= -8 and int(value.max()) <= 7:
            packed = _in_4_bits(f"{name}p", value, onnx.TensorProto.INT4)
            return Stored((packed,), (_cast(packed.name, name, torch.int8),), in_4_bits=True)
        if value.dtype == torch.float32:
            return _codebook(name, value) or _half(name, value) or Stored((_whole(name, value),))
    return Stored((_whole(name, value),))


def _whole(name: str, value: Tensor) -> onnx.TensorProto:
    return helper.make_tensor(name, ELEMENT_TYPES[value.dtype], value.shape, value.numpy().tobytes(), raw=True)


def _half(name: str, value: Tensor) -> Stored | None:
    """As float16, if that is exact."""
    half = value.half()
    if not torch.equal(half.float(), value):
        return None
    tensor = _whole(f"{name}h", half)
    return Stored((tensor,), (_cast(tensor.name, name, torch.float32),))


def _codebook(name: str, value: Tensor) -> Stored | None:
    """As a codebook and an index an element, if there are few different numbers."""
    flat = value.flatten()
    if len(flat[:_SAMPLE].unique()) > 256:
        return None
    codebook, indices = flat.unique(return_inverse=True)
    if len(codebook) > min(256, len(flat) // 8):
        return None
    small = indices.view(value.shape).to(torch.uint8)
    in_4_bits = len(codebook) <= 16
    kept = _in_4_bits(f"{name}i", small, onnx.TensorProto.UINT4) if in_4_bits else _whole(f"{name}i", small)
    nodes = (_cast(kept.name, f"{name}n", torch.int32), helper.make_node("Gather", [f"{name}c", f"{name}n"], [name]))
    return Stored((kept, _whole(f"{name}c", codebook)), nodes, in_4_bits)


def _in_4_bits(name: str, value: Tensor, element_type: int) -> onnx.TensorProto:
    """Two elements a byte, the first one in its lower half (ONNX's specification of INT4)."""
    halves = value.flatten().to(torch.uint8) & 0xF
    halves = torch.nn.functional.pad(halves, (0, len(halves) % 2))
    content = (halves[::2] | halves[1::2] << 4).numpy().tobytes()
    return helper.make_tensor(name, element_type, value.shape, content, raw=True)


def _cast(source: str, name: str, dtype: torch.dtype) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [name], to=ELEMENT_TYPES[dtype])
