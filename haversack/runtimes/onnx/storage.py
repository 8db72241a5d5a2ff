"""Storage: each constant of a file in the fewest bytes that still give exactly its numbers.

What techniques make of weights needs no flag to be stored well: integers of 4 bits are stored two a byte, numbers that
float16 holds exactly as float16, and a tensor of few different numbers as a codebook with an index an element (Han
2016). ONNX Runtime undoes it once, when it loads the file.

ONNX's own INT4 needs opset 21, under which ONNX Runtime 1.32's optimizer refuses its own signed activations. Here each
byte is looked up in a table of the two integers that it holds, which every opset can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import torch
from onnx import helper
from torch import Tensor

from haversack.grid import blocks

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
_LEAST_ELEMENTS_IN_4_BITS = 512
"""Half of these bytes pay for three nodes."""
_SAMPLE = 1024


@dataclass(frozen=True)
class Initializers:
    """A constant's initializers, and the nodes that make its value of them. What has one name is equal."""

    tensors: Mapping[str, Tensor]
    nodes: tuple[onnx.NodeProto, ...] = ()


def stored(name: str, value: Tensor) -> Initializers:
    """The smallest exact form of `value` under `name`."""
    if value.numel() >= _LEAST_ELEMENTS:
        if is_packed(value):
            return _in_4_bits(name, value)
        if value.dtype == torch.float32:
            return _codebook(name, value) or _half(name, value) or whole(name, value)
    return whole(name, value)


def whole(name: str, value: Tensor) -> Initializers:
    """The constant as an initializer that nodes read as it stands."""
    return Initializers({name: value})


def is_packed(value: Tensor) -> bool:
    """Whether these are integers that are stored two a byte."""
    if value.dtype != torch.int8 or value.numel() < _LEAST_ELEMENTS_IN_4_BITS:
        return False
    return int(value.min()) >= -8 and int(value.max()) <= 7


def _half(name: str, value: Tensor) -> Initializers | None:
    """As float16, if that is exact."""
    flat = value.flatten()
    if not torch.equal(flat[:_SAMPLE].half().float(), flat[:_SAMPLE]):
        return None
    half = value.half()
    if not torch.equal(half.float(), value):
        return None
    return Initializers({f"{name}h": half}, (_cast(f"{name}h", name, torch.float32),))


def _codebook(name: str, value: Tensor) -> Initializers | None:
    """As a codebook and an index an element, if there are few different numbers."""
    flat = value.flatten()
    if len(flat[:_SAMPLE].unique()) > 256:
        return None
    codebook = flat.unique()
    if len(codebook) > min(256, len(flat) // 8):
        return None
    small = torch.cat([torch.searchsorted(codebook, flat[some]).to(torch.uint8) for some in blocks(flat)])
    small = small.view(value.shape)
    halved = len(codebook) <= 16 and len(flat) >= _LEAST_ELEMENTS_IN_4_BITS
    kept = _in_4_bits(f"{name}i", small) if halved else whole(f"{name}i", small)
    nodes = (
        _cast(f"{name}i", f"{name}n", torch.int32),
        helper.make_node("Gather", [f"{name}c", f"{name}n"], [name]),
    )
    return Initializers({**kept.tensors, f"{name}c": codebook}, (*kept.nodes, *nodes))


def _in_4_bits(name: str, value: Tensor) -> Initializers:
    """Two elements a byte, the first one in its lower half, and the nodes that look bytes up in a table of both."""
    halves = value.flatten().to(torch.uint8) & 0xF
    odd = len(halves) % 2
    halves = torch.nn.functional.pad(halves, (0, odd))
    table = _pairs("s" if value.dtype == torch.int8 else "u", value.dtype)
    tensors = {**table.tensors, f"{name}p": halves[::2] | halves[1::2] << 4}
    nodes = [
        *table.nodes,
        _cast(f"{name}p", f"{name}b", torch.int32),
        helper.make_node("Gather", [*table.nodes[-1].output, f"{name}b"], [f"{name}g"]),
    ]
    pairs = f"{name}g"
    if odd:
        tensors |= {"flat4": torch.tensor([-1]), "first4": torch.tensor([0]), f"{name}e": torch.tensor([value.numel()])}
        nodes += [
            helper.make_node("Reshape", [pairs, "flat4"], [f"{name}f"]),
            helper.make_node("Slice", [f"{name}f", "first4", f"{name}e"], [f"{name}o"]),
        ]
        pairs = f"{name}o"
    tensors[f"{name}d"] = torch.tensor(value.shape)
    nodes.append(helper.make_node("Reshape", [pairs, f"{name}d"], [name]))
    return Initializers(tensors, tuple(nodes))


def _pairs(name: str, dtype: torch.dtype) -> Initializers:
    """What each byte holds, (256, 2): two integers of 4 bits, signed or not. It stands once in a file.

    The last of the nodes makes it, of the integers along both halves: that takes half the bytes of the table itself.
    """
    half = torch.arange(16)
    integers = torch.where(half > 7, half - 16, half) if dtype == torch.int8 else half
    low, high = integers.to(dtype).view(16, 1), integers.to(dtype).view(16, 1, 1)
    sizes, flat = torch.tensor([16, 16, 1]), torch.tensor([256, 2])
    made = [f"{name}{part}" for part in ("4x", "4y", "4b", "4")]
    nodes = (
        helper.make_node("Expand", [f"{name}4l", "4s"], made[:1]),
        helper.make_node("Expand", [f"{name}4h", "4s"], made[1:2]),
        helper.make_node("Concat", made[:2], made[2:3], axis=2),
        helper.make_node("Reshape", [made[2], "4f"], made[3:]),
    )
    return Initializers({f"{name}4l": low, f"{name}4h": high, "4s": sizes, "4f": flat}, nodes)


def _cast(source: str, name: str, dtype: torch.dtype) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [name], to=ELEMENT_TYPES[dtype])
