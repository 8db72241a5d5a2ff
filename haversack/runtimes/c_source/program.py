"""Program: what a network takes as C on a device's core, read off a run of it there, emulated."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from torch import fx

from haversack.device import Device
from haversack.errors import ParityError
from haversack.integer import IntegerGraph
from haversack.integer.passes import with_integer_ports
from haversack.integer.read import read
from haversack.integer.reference import run as run_reference
from haversack.runtimes import Program, Source
from haversack.runtimes.c_source.build import built, compilers
from haversack.runtimes.c_source.cores import core_board
from haversack.runtimes.c_source.emulator import EmulatedCore
from haversack.runtimes.c_source.inputs import differing_bytes, random_inputs
from haversack.runtimes.c_source.write import CModel, write

STACK_BYTES = 1024
"""Room in RAM that is left to the stack: MLPerf Tiny's networks take up to half of that."""
_STACK_BYTES = 400
"""What it takes, about."""
_SAMPLES = 2
"""One of noise and one that is smooth."""


def source(lowered: fx.GraphModule, ram_bytes: int | None) -> Source:
    """model.h and model.c of a graph whose values are integers, in strips where whole maps take more than that."""
    model = _written(_integers(lowered), ram_bytes)
    return Source(model.files, model.constant_bytes, model.arena_bytes + _STACK_BYTES)


def run(lowered: fx.GraphModule, device: Device, ram_bytes: int | None) -> Program:
    """What that program takes on the device's core, whose memory is not limited here.

    Raises ExportError for what there is no C for, MeasureError where no compiler or emulator is installed or the
    program fails, and ParityError where a byte is not the reference's.
    """
    graph, board = _integers(lowered), core_board(device.core)
    model, rows = _written(graph, ram_bytes), random_inputs(graph, _SAMPLES, 0)
    with tempfile.TemporaryDirectory() as folder:
        firmware = built(model, board, Path(folder))
    ran = EmulatedCore(firmware, model).run(rows)
    wrong = differing_bytes(ran.outputs, run_reference(graph, rows))
    if wrong:
        raise ParityError(
            f"{wrong} bytes of its outputs on an emulated {board.name} are not the integer reference's.",
            mend="please report it with the network.",
        )
    return Program(firmware.flash_bytes, firmware.static_bytes + ran.stack_bytes, max(ran.instructions))


@functools.cache
def version() -> str:
    """A digest of everything that writes C, and the version of each compiler that is installed."""
    content = hashlib.sha256(b"".join(each.read_bytes() for each in _texts(resources.files(__package__)))).hexdigest()
    known = (f"{name} {_version_of(command)}" for name, command in compilers(core_board("cortex-m4")).items())
    return ", ".join((f"writer {content[:8]}", *known))


def _version_of(command: Sequence[str]) -> str:
    """The number that a compiler tells; Zig tells that of Clang, as its C is."""
    words = command[: 1 + command.index("cc")] if "cc" in command else command[:1]
    said = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    numbers = re.search(r"\d+\.\d+\.\d+", said)
    return numbers[0] if numbers else "unknown"


def _texts(folder: Traversable) -> Iterator[Traversable]:
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        if each.is_dir():
            yield from _texts(each)
        elif each.name.endswith((".py", ".c", ".h", ".ld")):
            yield each


def _integers(lowered: fx.GraphModule) -> IntegerGraph:
    return with_integer_ports(read(lowered))


def _written(graph: IntegerGraph, ram_bytes: int | None) -> CModel:
    return write(graph, None if ram_bytes is None else max(0, ram_bytes - STACK_BYTES))
