"""Parties: who can compute one network, and with which file of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from haversack.batches import Outputs
from haversack.device import find_device
from haversack.errors import ExportError
from haversack.graph.one_length import at_its_length
from haversack.graph.row_by_row import rounds_at_once
from haversack.integer import IntegerGraph, Value
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.proving.examine import made_for_host
from haversack.runtimes import File, Runtime, agreement, host, rows
from haversack.runtimes.ports import Port
from haversack.task import Predict

NOW = "written now"


@dataclass(frozen=True)
class Ready:
    """A party at work: what it computes with, and whether integers come out of it to the bit."""

    predict: Predict
    file: str
    """The file of the result, or NOW for one that was written from the same graph; empty where there is none."""
    exact: bool = False
    optimized: bool = True
    """Without it the file was run node by node, as it stands."""


@dataclass(frozen=True)
class Party:
    """One way to compute the network."""

    name: str
    file: str
    """The file of the result that it runs; empty where the result has none for it."""
    open: Callable[[], Ready]
    runtime: Runtime | None = None


@dataclass(frozen=True)
class Cast:
    """Makes the parties of one result. Their files run in processes of their own: any of them may be damaged."""

    lowered: fx.GraphModule
    folder: Path
    threads: int
    weight_bits: int
    """The most bits that a weight of the network has in integers."""

    def parties(self) -> list[Party]:
        """All who may be asked, the reference first; runtimes that nobody has to have only where installed."""
        ours = [Party("integer reference", "", self._reference), Party("torch", "network/", self._torch)]
        files = (row for row in rows() if row.programs is None)
        return ours + [self._party(row) for row in files if row.is_installed or not row.optional]

    def _party(self, runtime: Runtime) -> Party:
        file = runtime.format.file
        there = (self.folder / file).is_file()
        return Party(runtime.title, file if there else "", lambda: self._opened(runtime), runtime)

    def _reference(self) -> Ready:
        graph = read(self.lowered)
        ports = [
            port_of(graph.values[name], order) for name, order in zip(graph.inputs, graph.input_orders, strict=True)
        ]
        ends = zip(graph.outputs, graph.output_orders, strict=True)
        given = [port_of(graph.values[name], order) for name, order in ends]

        def predict(*inputs: Tensor) -> Outputs:
            arrays = [each.taken(value.numpy()) for each, value in zip(ports, inputs, strict=True)]
            real = [port.given(array) for port, array in zip(given, run(graph, arrays), strict=True)]
            outputs = tuple(torch.from_numpy(np.ascontiguousarray(each)) for each in real)
            return outputs if len(outputs) > 1 else outputs[0]

        return Ready(at_its_length(self.lowered, predict), "", exact=_all_on_integers(graph))

    def _torch(self) -> Ready:
        return Ready(at_its_length(self.lowered, agreement.in_torch(self.lowered)), "network/")

    def _opened(self, runtime: Runtime) -> Ready:
        if runtime.rounds_rows and rounds_at_once(self.lowered):
            raise ExportError(
                f"{runtime.title} rounds row by row what this result rounds with one step for all of a value, or not.",
                mend=f"pack it for {runtime.name}.",
            )
        file, source = self._file(runtime)
        exact = runtime.exact and _all_on_integers(read(self.lowered))
        orders = runtime.orders(self.lowered) if runtime.orders else None
        optimized = made_for_host(self.folder) or not self._saturates(runtime)
        predict = host.load(file, self.threads, runtime=runtime.name, orders=orders, optimized=optimized, apart=True)
        return Ready(at_its_length(self.lowered, predict), source, exact, optimized)

    def _saturates(self, runtime: Runtime) -> bool:
        """Whether this host's kernels cannot multiply these weights exactly, as those of other devices can."""
        return replace(find_device("host"), runtime=runtime.name).weight_bits < self.weight_bits

    def _file(self, runtime: Runtime) -> tuple[File, str]:
        """The runtime's file in the folder, or one that is written now; and which of them it is."""
        path = self.folder / runtime.format.file
        if path.is_file() and not self._is_for_another(path, runtime):
            return path, path.name
        return runtime.write(self.lowered), NOW

    def _is_for_another(self, path: Path, runtime: Runtime) -> bool:
        """Whether it is just what is written for the first runtime of the format, where this one has its own files."""
        if runtime.write == runtime.first.write:
            return False
        content = path.read_bytes()
        return runtime.write(self.lowered) != content == runtime.first.write(self.lowered)


def port_of(value: Value, order: tuple[int, ...]) -> Port:
    """How a value of an integer graph is handed over from outside."""
    kind = np.dtype(value.dtype).type
    if value.grid is None:
        return Port(value.shape, kind, order=order)
    return Port(value.shape, kind, value.grid.scale[0], value.grid.zero_point[0], order)


def _all_on_integers(graph: IntegerGraph) -> bool:
    """Whether nothing between the first QUANTIZE and the last DEQUANTIZE is computed on real numbers."""
    computing = (each for each in graph.operations if each.kind not in ("QUANTIZE", "DEQUANTIZE"))
    return all(graph.values[name].grid is not None for each in computing for name in each.outputs)
