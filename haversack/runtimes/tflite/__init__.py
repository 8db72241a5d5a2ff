""".tflite files for LiteRT and LiteRT for Microcontrollers: our own small writer of the integer graph's bytes.

A new operation is one line in `schema.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from haversack.runtimes import Around, FileFormat, Orders, Runtime
from haversack.runtimes.tflite import micro, run

if TYPE_CHECKING:
    from torch import fx

    from haversack.integer import IntegerGraph


def _read(lowered: fx.GraphModule) -> IntegerGraph:
    from haversack.graph.row_by_row import row_by_row
    from haversack.integer.read import read

    return read(row_by_row(lowered))


def _written(lowered: fx.GraphModule) -> bytes:
    from haversack.runtimes.tflite.write import write

    return write(_read(lowered))


def _written_small(lowered: fx.GraphModule) -> bytes:
    from haversack.runtimes.tflite.write import write

    return write(_read(lowered), micro=True)


def _orders(lowered: fx.GraphModule) -> Orders:
    graph = _read(lowered)
    return graph.input_orders, graph.output_orders


LITERT = Runtime(
    name="litert",
    title="LiteRT",
    format=FileFormat(
        file="model.tflite",
        kind=".tflite",
        worker=Path(__file__).with_name("worker.py"),
        empty=run.empty,
        contents=run.contents,
        mark=rb".{4}TFL3",
    ),
    number_formats=frozenset({"float32", "int16", "int8", "int4"}),
    write=_written,
    open=run.open_file,
    packages=("ai_edge_litert",),
    install="pip install 'haversack[litert]'",
    orders=_orders,
    around=Around(330, 460, 8, 56, dynamic_step=4, row_step=4),
    unpacks=True,
    rounds_rows=True,
)
MICRO = replace(
    LITERT,
    name="tflite-micro",
    title="tflite-micro",
    write=_written_small,
    open=micro.open_file,
    packages=("tflite_micro",),
    install="pip install --pre tflite-micro",
    around=Around(215, 350, 8, 56),
    exact=True,
    credulous=True,
    remark=".tflite files; C source without an interpreter by `prove --on`",
)
ROWS = (LITERT, MICRO)
