"""A .tflite file read back with the generated schema package: the oracle of what the writer wrote."""

import numpy as np
import tflite

from haversack.grid import Grid
from haversack.integer import IntegerGraph, Operation, Value
from haversack.runtimes.tflite.schema import BUILTINS, TENSOR_TYPES

GETTERS = {
    "activation": ("FusedActivationFunction",),
    "dilation": ("DilationHFactor", "DilationWFactor"),
    "filter": ("FilterHeight", "FilterWidth"),
    "stride": ("StrideH", "StrideW"),
}
TYPES = {code: name for name, code in TENSOR_TYPES.items()}
KINDS = {builtin.code: kind for kind, builtin in BUILTINS.items()}
UNIONS = {code: name for name, code in vars(tflite.BuiltinOptions).items() if isinstance(code, int)}
ACTIVATIONS = {code: name for name, code in vars(tflite.ActivationFunctionType).items() if isinstance(code, int)}
PADDINGS = {code: name for name, code in vars(tflite.Padding).items() if isinstance(code, int)}


def getters(option):
    return GETTERS.get(option) or ("".join(part.title() for part in option.split("_")),)


def options_of(operator, kind):
    """The options that stand in the file, under our names, read by the generated classes."""
    if not BUILTINS[kind].fields:
        return {}
    table = operator.BuiltinOptions()
    read = getattr(tflite, UNIONS[operator.BuiltinOptionsType()])()
    read.Init(table.Bytes, table.Pos)
    found = {
        field.option: tuple(getattr(read, name)() for name in getters(field.option)) for field in BUILTINS[kind].fields
    }
    found = {option: values if len(values) > 1 else values[0] for option, values in found.items()}
    words = {"activation": ACTIVATIONS, "padding": PADDINGS}
    return {option: words[option][value] if option in words else value for option, value in found.items()}


def read_file(content):
    model = tflite.Model.GetRootAs(content)
    subgraph = model.Subgraphs(0)
    values = [value_of(model, subgraph.Tensors(index), index) for index in range(subgraph.TensorsLength())]
    operations = []
    for index in range(subgraph.OperatorsLength()):
        operator = subgraph.Operators(index)
        kind = KINDS[model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()]
        ends = (
            [values[place].name for place in each] for each in (operator.InputsAsNumpy(), operator.OutputsAsNumpy())
        )
        operations.append(Operation(kind, *(tuple(each) for each in ends), options_of(operator, kind), f"{index}"))
    inputs, outputs = (
        tuple(values[place].name for place in each) for each in (subgraph.InputsAsNumpy(), subgraph.OutputsAsNumpy())
    )
    orders = [tuple(tuple(range(len(values[0].shape))) for _ in names) for names in (inputs, outputs)]
    return IntegerGraph({each.name: each for each in values}, tuple(operations), inputs, outputs, *orders)


def value_of(model, tensor, index):
    shape = tuple(int(size) for size in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
    dtype, buffer, steps = TYPES[tensor.Type()], model.Buffers(tensor.Buffer()), tensor.Quantization()
    data = np.array(buffer.DataAsNumpy()).view(dtype).reshape(shape) if buffer.DataLength() else None
    grid = None
    if steps is not None and steps.ScaleLength():
        scale = tuple(float(step) for step in steps.ScaleAsNumpy())
        zeros = tuple(int(zero) for zero in steps.ZeroPointAsNumpy())
        bits = {"int8": 8, "int16": 16}.get(dtype, 32)
        grid = Grid(bits, True, scale, zeros, steps.QuantizedDimension() if len(scale) > 1 else None)
    return Value(f"{index}", shape, dtype, grid, data)
