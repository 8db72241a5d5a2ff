"""Parties: who can compute one network, and with which file of a result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx

from haversack.artifact import Runtime
from haversack.integer import IntegerGraph, Value
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.runtimes import agreement, host
from haversack.runtimes.files import File, is_installed
from haversack.runtimes.ports import Port

Predict = Callable[..., Tensor]

FILES = {"onnx": "model.onnx", "litert": "model.tflite", "tflite-micro": "model.tflite", "executorch": "model.pte"}
"""The file of each runtime that a result may be made for."""
OWNERS = {"model.onnx": "onnx", "model.tflite": "litert", "model.pte": "executorch"}
"""The runtime that a file is for where its result does not tell."""
NOW = "written now"


@dataclass(frozen=True)
class Opened:
    """A party at work: what it computes with, and whether integers come out of it to the bit."""

    predict: Predict
    file: str
    """The file of the result, or NOW for one that was written from the same graph; empty where there is none."""
    exact: bool = False


@dataclass(frozen=True)
class Party:
    """One way to compute the network."""

    name: str
    runtime: str
    """As a device names it; empty where there is none."""
    file: str
    """The file of the result that it runs; empty where the result has none for it."""
    open: Callable[[], Opened]


@dataclass(frozen=True)
class Cast:
    """Makes the parties of one result. Their files run in processes of their own: any of them may be damaged."""

    lowered: fx.GraphModule
    folder: Path
    threads: int

    def parties(self) -> list[Party]:
        """All who may be asked, the reference first; those that are no extra of ours only where installed."""
        always = [
            Party("integer reference", "", "", self._reference),
            Party("torch", "", "network/", self._torch),
            self._party("ONNX Runtime", "onnx", "model.onnx", self._onnx),
            self._party("LiteRT", "litert", "model.tflite", self._litert),
            self._party("tflite-micro", "tflite-micro", "model.tflite", self._micro),
        ]
        extras = [
            self._party("OpenVINO", "openvino", "model.onnx", lambda: self._onnx("openvino")),
            self._party("ExecuTorch", "executorch", "model.pte", self._executorch),
        ]
        return always + [party for party in extras if is_installed(party.runtime)]

    def _party(self, name: str, runtime: str, file: str, make: Callable[[], Opened]) -> Party:
        return Party(name, runtime, file if (self.folder / file).is_file() else "", make)

    def _reference(self) -> Opened:
        graph = read(self.lowered)
        ports = [_port(graph.values[name], order) for name, order in zip(graph.inputs, graph.input_orders, strict=True)]
        port = _port(graph.values[graph.outputs[0]], graph.output_orders[0])

        def predict(*inputs: Tensor) -> Tensor:
            arrays = [each.taken(value.numpy()) for each, value in zip(ports, inputs, strict=True)]
            return torch.from_numpy(np.ascontiguousarray(port.given(run(graph, arrays)[0])))

        return Opened(predict, "", exact=_all_on_integers(graph))

    def _torch(self) -> Opened:
        return Opened(agreement.in_torch(self.lowered), "network/")

    def _onnx(self, runtime: str = "onnx") -> Opened:
        from haversack.runtimes.onnx import RUNTIME

        return self._opened(*self._file("model.onnx", RUNTIME), runtime, RUNTIME)

    def _executorch(self) -> Opened:
        from haversack.runtimes.executorch.write import RUNTIME

        return self._opened(*self._file("model.pte", RUNTIME), "executorch", RUNTIME)

    def _litert(self) -> Opened:
        from haversack.runtimes.tflite import RUNTIME

        return self._opened(*self._file("model.tflite", RUNTIME), "litert", RUNTIME)

    def _micro(self) -> Opened:
        """The same file, unless it is what is written for LiteRT alone."""
        from haversack.runtimes.tflite import MICRO, RUNTIME

        file, source = self._file("model.tflite", MICRO)
        own = written(MICRO, self.lowered)
        if isinstance(file, Path) and own != file.read_bytes() == written(RUNTIME, self.lowered):
            file, source = own, NOW
        exact = _all_on_integers(read(self.lowered))
        return self._opened(file, source, "tflite-micro", MICRO, exact=exact)

    def _opened(self, file: File, source: str, name: str, runtime: Runtime, *, exact: bool = False) -> Opened:
        orders = runtime.orders(self.lowered) if runtime.orders else None
        predict = host.load(file, self.threads, runtime=name, orders=orders, apart=True)
        return Opened(predict, source, exact)

    def _file(self, name: str, runtime: Runtime) -> tuple[File, str]:
        """The file of that name in the folder, or one that is written now; and which of them it is."""
        path = self.folder / name
        return (path, name) if path.is_file() else (written(runtime, self.lowered), NOW)


def written(runtime: Runtime, lowered: fx.GraphModule) -> bytes:
    """The file that a runtime runs."""
    return next(iter(runtime.write(lowered).values()))


def _port(value: Value, order: tuple[int, ...]) -> Port:
    kind = np.dtype(value.dtype).type
    if value.grid is None:
        return Port(value.shape, kind, order=order)
    return Port(value.shape, kind, value.grid.scale[0], value.grid.zero_point[0], order)


def _all_on_integers(graph: IntegerGraph) -> bool:
    """Whether nothing between the first QUANTIZE and the last DEQUANTIZE is computed on real numbers."""
    computing = (each for each in graph.operations if each.kind not in ("QUANTIZE", "DEQUANTIZE"))
    return all(graph.values[name].grid is not None for each in computing for name in each.outputs)
