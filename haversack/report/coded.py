"""What a coded file holds, as text and as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from haversack.coded.tensors import Codebook, Integers, Stored
from haversack.quantity import show_bytes
from haversack.report.blocks import Document, Paragraph, Rows, document


def coded(tensors: Mapping[str, Stored], size_bytes: int, place: str) -> Document:
    """The tensors of a coded file, one a line, and what the file saves against float32."""
    rows = [
        (each["name"], "x".join(map(str, each["shape"])), each["form"], f"{each['zeros']:.1%}")
        for each in contents(tensors)
    ]
    plain = 4 * sum(tensor.real.size for tensor in tensors.values())
    total = f"{show_bytes(size_bytes)} in all, for {show_bytes(plain)} as float32: {plain / size_bytes:.1f}x smaller."
    head = ("tensor", "shape", "stored as", "zeros")
    return document(place, Rows(head, rows, right=("zeros",)), Paragraph(total))


def contents(tensors: Mapping[str, Stored]) -> list[dict[str, Any]]:
    """Name, shape, form and share of zeros of each tensor."""
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "form": _form(tensor),
            "zeros": float((tensor.real == 0).mean()) if tensor.real.size else 0.0,
        }
        for name, tensor in tensors.items()
    ]


def _form(tensor: Stored) -> str:
    if isinstance(tensor, Codebook):
        return f"codebook of {tensor.centroids.size}"
    if isinstance(tensor, Integers):
        return f"{tensor.bits}-bit integers, {tensor.scale.size} steps"
    return str(tensor.real.dtype)
