"""Sources: the integer graph that becomes C, out of a result's folder or any .tflite file, and inputs for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from haversack.errors import MeasureError, UntrustedError
from haversack.graph.inference import lower
from haversack.graph.run import joined
from haversack.integer import Array, IntegerGraph
from haversack.integer.passes import with_integer_ports
from haversack.integer.read import read
from haversack.packing.result import read_result
from haversack.proving.parties import port_of
from haversack.runtimes.tflite.read import read as read_tflite
from haversack.task import Task

_SAMPLES = 300


@dataclass(frozen=True, eq=False)
class Source:
    """A graph, and typical inputs for it as it takes them; None where none are known."""

    graph: IntegerGraph
    inputs: Sequence[Array] | None


def source_of(place: Path, network: nn.Module | None = None, task: Task | None = None) -> Source:
    """What lies at that place: a .tflite file by itself, or a result, with the network and the task that it is of."""
    if place.is_file():
        try:
            return Source(read_tflite(place.read_bytes()), None)
        except UntrustedError as error:
            raise MeasureError(error.what, where=str(place), mend="give an int8 .tflite file.") from error
    if network is None or task is None:
        raise MeasureError("TASK.py is missing.", mend="give the Python file that the result was packed from.")
    graph = with_integer_ports(read(lower(read_result(place, network, task))))
    return Source(graph, _inputs(graph, task))


def _inputs(graph: IntegerGraph, task: Task) -> list[Array]:
    """The task's calibration inputs, the first ones, as the integers that the graph takes."""
    with torch.no_grad():
        columns = joined(task.calibration(), _SAMPLES)
    ports = (port_of(graph.values[name], order) for name, order in zip(graph.inputs, graph.input_orders, strict=True))
    return [np.ascontiguousarray(port.taken(column.numpy())) for port, column in zip(ports, columns, strict=True)]
