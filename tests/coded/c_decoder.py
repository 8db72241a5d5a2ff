"""The C decoder as Python sees it: compiled once a session, and what it says of files."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from haversack.coded.arrays import KINDS
from haversack.coded.tensors import Codebook, Integers, Raw, Stored

SOURCE = Path(__file__).parents[2] / "haversack" / "coded" / "decoder"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O2")
STATUSES = ("ok", "end", "foreign", "newer", "checksum", "damaged", "buffer", "order")


def compiler() -> str | None:
    return shutil.which("cc")


def compiled(folder: Path, *options: str) -> Path:
    """The program of dump.c; raises CalledProcessError where it does not compile."""
    program = folder / "dump"
    sources = [Path(__file__).with_name("dump.c"), SOURCE / "haversack_coded.c"]
    command = [compiler() or "cc", *STRICT, *options, f"-I{SOURCE}", *map(str, sources), "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return program


def decoded(program: Path, files: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """For each file the status, and behind ok the tensors as `dump.c` writes them."""
    given = b"".join(struct.pack("<I", len(file)) + file for file in files)
    done = subprocess.run([str(program)], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    found, at = [], 0
    while at < len(done.stdout):
        status, length = STATUSES[done.stdout[at]], 0
        at += 1
        if status == "ok":
            length = struct.unpack_from("<I", done.stdout, at)[0]
            at += 4
        found.append((status, done.stdout[at : at + length]))
        at += length
    assert len(found) == len(files)
    return found


def dumped(tensors: Mapping[str, Stored]) -> bytes:
    """What `dump.c` writes of these tensors."""
    return b"".join(name.encode() + b"\0" + _dumped(tensor) for name, tensor in tensors.items())


def _dumped(tensor: Stored) -> bytes:
    form = (Raw, Integers, Codebook).index(type(tensor))
    integers = tensor if isinstance(tensor, Integers) else None
    values = tensor.real if integers is None else integers.values
    numbers = [form, KINDS.index(values.dtype), values.ndim, *values.shape]
    if integers is None:
        numbers += [0, 0, 0, 0xFFFFFFFF, 0, 0]
        return np.array([*numbers, values.nbytes], "<u4").tobytes() + values.tobytes()
    axis = 0xFFFFFFFF if integers.axis is None else integers.axis
    numbers += [
        integers.bits,
        integers.signed,
        integers.narrow,
        axis,
        integers.scale.size,
        integers.zero_point.size > 0,
    ]
    steps = integers.scale.tobytes() + integers.zero_point.tobytes()
    return np.array(numbers, "<u4").tobytes() + steps + np.array([values.nbytes], "<u4").tobytes() + values.tobytes()
