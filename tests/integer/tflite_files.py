"""Reads a .tflite file into an integer graph with the schema package, and runs one in tflite-micro: the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tflite
from tflite_micro.python.tflite_micro.runtime import Interpreter, InterpreterConfig

from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value

KINDS = {code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)}
DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.INT64: "int64",
}
BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 32}
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")
PADDINGS = ("SAME", "VALID")


def read_tflite(data: bytes) -> IntegerGraph:
    model = tflite.Model.GetRootAsModel(data, 0)
    graph = model.Subgraphs(0)
    names = [f"{index}:{graph.Tensors(index).Name().decode()}" for index in range(graph.TensorsLength())]
    names.append("")
    values = {name: _value(model, graph.Tensors(index), name) for index, name in enumerate(names[:-1])}
    operations = tuple(_operation(model, graph.Operators(index), names) for index in range(graph.OperatorsLength()))
    inputs, outputs = (
        tuple(names[index] for index in indices) for indices in (graph.InputsAsNumpy(), graph.OutputsAsNumpy())
    )
    orders = tuple(tuple(range(len(values[name].shape))) for name in inputs)
    return IntegerGraph(values, operations, inputs, outputs, orders, orders)


def _value(model: Any, tensor: Any, name: str) -> Value:
    shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    dtype = DTYPES[tensor.Type()]
    buffer = model.Buffers(tensor.Buffer())
    data = buffer.DataAsNumpy().view(dtype).reshape(shape) if buffer.DataLength() else None
    return Value(name, tuple(abs(size) for size in shape), dtype, _grid(tensor, dtype), data)


def _grid(tensor: Any, dtype: str) -> Grid | None:
    found = tensor.Quantization()
    if found is None or not found.ScaleLength():
        return None
    scale = tuple(float(step) for step in found.ScaleAsNumpy())
    zero = tuple(int(point) for point in found.ZeroPointAsNumpy())
    axis = found.QuantizedDimension() if len(scale) > 1 else None
    return Grid(BITS[dtype], True, scale, zero, axis)


def _operation(model: Any, operator: Any, names: list[str]) -> Operation:
    kind = KINDS[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
    ends = operator.InputsAsNumpy(), operator.OutputsAsNumpy()
    inputs, outputs = (tuple(names[index] for index in indices) for indices in ends)
    return Operation(kind, inputs, outputs, _options(kind, operator), names[operator.Outputs(0)])


def _options(kind: str, operator: Any) -> dict[str, Any]:
    table = operator.BuiltinOptions()
    classes = {
        "CONV_2D": tflite.Conv2DOptions,
        "DEPTHWISE_CONV_2D": tflite.DepthwiseConv2DOptions,
        "AVERAGE_POOL_2D": tflite.Pool2DOptions,
        "MAX_POOL_2D": tflite.Pool2DOptions,
        "FULLY_CONNECTED": tflite.FullyConnectedOptions,
        "ADD": tflite.AddOptions,
        "SOFTMAX": tflite.SoftmaxOptions,
    }
    if kind not in classes:
        return {}
    options = classes[kind]()
    options.Init(table.Bytes, table.Pos)
    found: dict[str, Any] = {}
    if hasattr(options, "StrideH"):
        found.update(stride=(options.StrideH(), options.StrideW()), padding=PADDINGS[options.Padding()])
    if hasattr(options, "DilationHFactor"):
        found.update(dilation=(options.DilationHFactor(), options.DilationWFactor()))
    if hasattr(options, "FilterHeight"):
        found.update(filter=(options.FilterHeight(), options.FilterWidth()))
    if hasattr(options, "FusedActivationFunction"):
        found.update(activation=ACTIVATIONS[options.FusedActivationFunction()])
    if hasattr(options, "KeepNumDims"):
        found.update(keep_num_dims=options.KeepNumDims())
    if hasattr(options, "Beta"):
        found.update(beta=options.Beta())
    return found


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
