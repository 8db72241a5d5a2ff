"""Programs (.pte) for ExecuTorch with XNNPACK: torch's exporter writes them, its Python runtime runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from haversack.runtimes import FileFormat, Runtime
from haversack.runtimes.executorch import run

if TYPE_CHECKING:
    from torch import fx


def _written(lowered: fx.GraphModule) -> bytes:
    from haversack.runtimes.executorch.write import write

    return write(lowered)


EXECUTORCH = Runtime(
    name="executorch",
    title="ExecuTorch",
    format=FileFormat(
        file="model.pte",
        kind=".pte",
        worker=Path(__file__).with_name("worker.py"),
        empty=run.empty,
        contents=run.contents,
        mark=rb".{4}ET\d\d",
        opaque=True,
    ),
    number_formats=frozenset({"float32", "int8"}),
    write=_written,
    open=run.open_file,
    packages=("executorch",),
    install="pip install 'haversack[executorch]'",
    optional=True,
)
ROWS = (EXECUTORCH,)
