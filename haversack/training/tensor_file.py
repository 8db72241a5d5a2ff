"""Files of named tensors, each whole or absent, for what a training can do without."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save

from haversack.errors import UntrustedError
from haversack.graph.run import Tensors
from haversack.progress import say
from haversack.untrusted import read_file

_SUM_BYTES = hashlib.sha256().digest_size
_MOST_BYTES = 1 << 36


def read_tensors(path: Path) -> Tensors | None:
    """What was written, or None where there is nothing, or nothing sound."""
    try:
        content = read_file(path, _MOST_BYTES)
        if hashlib.sha256(content[_SUM_BYTES:]).digest() != content[:_SUM_BYTES]:
            return None
        return load(content[_SUM_BYTES:])
    except (UntrustedError, SafetensorError):
        return None


def write_tensors(path: Path, tensors: Tensors, what: str) -> None:
    """Writes a checksum and the tensors as safetensors, aside and then in place. A full disk is said and no more."""
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        aside.write_bytes(hashlib.sha256(content).digest() + content)
        aside.replace(path)
    except OSError as error:
        if aside is not None:
            with suppress(OSError):
                aside.unlink()
        say(f"{what} cannot be written to {path.parent}: {error.strerror}.")
