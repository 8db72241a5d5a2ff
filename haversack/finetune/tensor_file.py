"""Files of named tensors, each whole or absent, for what a training can do without."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from haversack.graph.named_tensors import Tensors
from haversack.progress import say

_SUM_BYTES = hashlib.sha256().digest_size


def read_tensors(path: Path) -> Tensors | None:
    """What was written, or None where there is nothing, or nothing sound."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_SUM_BYTES:]).digest() != content[:_SUM_BYTES]:
            return None
        return load(content[_SUM_BYTES:])
    except (OSError, SafetensorError):
        return None


def write_tensors(path: Path, tensors: Tensors, what: str) -> None:
    """Writes a checksum and the tensors as safetensors, aside and then in place. A full disk is said and no more."""
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(hashlib.sha256(content).digest() + content)
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        say(f"{what} cannot be written to {path.parent}: {error.strerror}.")
