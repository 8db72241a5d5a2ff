"""File: an ONNX model's bytes, into which its tensors are streamed one by one.

protobuf would hold each tensor several times before it is in the file. What it writes of a message without its numbers
is written by it here, too; only the lengths around tensors are counted by hand, so that the bytes are the same.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import onnx
from onnx import helper
from torch import Tensor

from haversack.errors import ExportError
from haversack.runtimes.onnx.storage import ELEMENT_TYPES

# The oldest pair that expresses everything, so that runtimes since 2023 load the file.
OPSET, IR = 18, 8
LARGEST_FILE_BYTES = 2**31 - 1
_BYTES = 2
"""The wire type of what is as long as the number before it says."""


def content(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    tensors: Mapping[str, Tensor],
) -> bytes:
    """The file of a graph with these initializers. Raises ExportError when no reader would take it."""
    heads = {name: _head(name, tensor) for name, tensor in tensors.items()}
    before = onnx.GraphProto(node=nodes, name="haversack").SerializeToString()
    after = onnx.GraphProto(input=inputs, output=outputs).SerializeToString()
    size = len(before) + len(after) + sum(len(head) + tensors[name].nbytes for name, head in heads.items())
    if size > LARGEST_FILE_BYTES:
        raise ExportError(
            f"the file would have {size / 1e9:.1f} GB, and an ONNX file holds at most 2 GB.",
            mend="store weights in fewer bits.",
        )
    stream = io.BytesIO()
    stream.write(onnx.ModelProto(ir_version=IR).SerializeToString())
    stream.write(_opening(onnx.ModelProto.GRAPH_FIELD_NUMBER, size) + before)
    for name, head in heads.items():
        stream.write(head)
        stream.write(tensors[name].contiguous().numpy().data)
    stream.write(after + onnx.ModelProto(opset_import=_operator_sets(nodes)).SerializeToString())
    return stream.getvalue()


def _operator_sets(nodes: Sequence[onnx.NodeProto]) -> list[onnx.OperatorSetIdProto]:
    """ONNX's own operators, and those of other domains where nodes are of such."""
    others = dict.fromkeys(node.domain for node in nodes if node.domain)
    return [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in others)]


def _head(name: str, tensor: Tensor) -> bytes:
    """All of an initializer that stands before its numbers."""
    described = onnx.TensorProto(name=name, dims=tensor.shape, data_type=ELEMENT_TYPES[tensor.dtype])
    head: bytes = described.SerializeToString() + _opening(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, tensor.nbytes)
    return _opening(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, len(head) + tensor.nbytes) + head


def _opening(field: int, size: int) -> bytes:
    """What stands before `size` bytes of a field (protobuf's encoding of lengths: seven bits a byte, lowest first)."""
    return _varint(field << 3 | _BYTES) + _varint(size)


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])
