"""Runs a .tflite file in tflite-micro: the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import tflite
from tflite_micro.python.tflite_micro.runtime import Interpreter, InterpreterConfig


def tensor_numbers(data: bytes) -> dict[str, int]:
    """The number of each tensor in a file, by its name."""
    graph = tflite.Model.GetRootAsModel(data, 0).Subgraphs(0)
    return {graph.Tensors(index).Name().decode(): index for index in range(graph.TensorsLength())}


class Micro:
    """tflite-micro's interpreter of one file."""

    def __init__(self, data: bytes) -> None:
        kept = InterpreterConfig.kPreserveAllTensors
        # Its guess for a file of a few bytes is too small, and then it ends the process.
        self.interpreter = Interpreter.from_bytes(data, arena_size=8 << 20, intrepreter_config=kept)

    def run(self, inputs: list[np.ndarray], wanted: list[int]) -> list[np.ndarray]:
        """The tensors with the `wanted` numbers for one row of inputs."""
        for index, array in enumerate(inputs):
            self.interpreter.set_input(array, index)
        self.interpreter.invoke()
        return [np.array(self.interpreter.GetTensor(index, 0)["tensor_data"]) for index in wanted]

    def outputs(self, inputs: list[np.ndarray], count: int = 1) -> list[np.ndarray]:
        """All outputs for one row of inputs."""
        for index, array in enumerate(inputs):
            self.interpreter.set_input(array, index)
        self.interpreter.invoke()
        return [np.array(self.interpreter.get_output(index)) for index in range(count)]


def mismatching(found: np.ndarray, wanted: np.ndarray) -> int:
    """How many numbers of two arrays of the same size differ; NumPy's comparison would hide a difference in shape."""
    if found.size != wanted.size:
        pytest.fail(f"{found.shape} against {wanted.shape}")
    return int((found.reshape(-1) != wanted.reshape(-1)).sum())
