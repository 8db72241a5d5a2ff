"""Plain C for microcontrollers: an integer graph as model.h and model.c, and programs of it on emulated cores.

`write.py` writes, `build.py` compiles for a board, `emulator.py` runs; `program.py` reads figures off such a run. On a
host the same network is run from a file of the runtime that computes integers to the bit as the C does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from haversack.runtimes import Around, Program, Programs, Runtime, Source, WithoutZeros
from haversack.runtimes.c_source.cores import CORES

if TYPE_CHECKING:
    from torch import fx

    from haversack.device import Device

_ON_A_HOST = "tflite-micro"


def over(known: Sequence[Runtime]) -> Iterator[Runtime]:
    """The row of what is run on a host by the runtime that is exact, and ships as C."""
    for row in known:
        if row.name == _ON_A_HOST:
            programs = Programs(row, frozenset(CORES), _source, _run, _version)
            yield replace(
                row,
                name="c",
                title="plain C",
                programs=programs,
                around=Around(215, 80, 0),
                code_bits=frozenset({1, 2, 3, 4}),
                without_zeros=WithoutZeros(1.5, 2, 0.45),
                remark="",
            )


def _source(lowered: fx.GraphModule, ram_bytes: int | None) -> Source:
    from haversack.runtimes.c_source.program import source

    return source(lowered, ram_bytes)


def _run(lowered: fx.GraphModule, device: Device, ram_bytes: int | None) -> Program:
    from haversack.runtimes.c_source.program import run

    return run(lowered, device, ram_bytes)


def _version() -> str:
    from haversack.runtimes.c_source.program import version

    return version()
