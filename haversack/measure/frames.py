"""Frames between two processes: a line of JSON that announces arrays, and the arrays' own bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import IO, Any

import numpy as np

Array = np.ndarray[Any, Any]


def send(stream: IO[bytes], head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
    """Writes one frame."""
    announced = [(array.dtype.str, array.shape) for array in arrays]
    stream.write(json.dumps({**head, "arrays": announced}).encode() + b"\n")
    for array in arrays:
        stream.write(array.tobytes())
    stream.flush()


def received(stream: IO[bytes]) -> tuple[dict[str, Any], list[Array]]:
    """The next frame. Raises EOFError where the other process has ended."""
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head: dict[str, Any] = json.loads(line)
    return head, [_array(stream, np.dtype(kind), shape) for kind, shape in head.pop("arrays")]


def _array(stream: IO[bytes], kind: np.dtype[Any], shape: Sequence[int]) -> Array:
    size = kind.itemsize * math.prod(shape)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return np.frombuffer(content, kind).reshape(shape)
