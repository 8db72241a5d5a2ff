"""Ports: whether a graph's inputs and outputs are integers or real numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from haversack.graph.integer import IntegerGraph, Operation, Value


def with_float_ports(graph: IntegerGraph) -> IntegerGraph:
    """The graph between float32 inputs and outputs, which keep the names that integer ones had."""
    values, inner = dict(graph.values), {}
    for name in dict.fromkeys((*graph.inputs, *graph.outputs)):
        if values[name].grid is not None:
            inner[name] = f"{name}:integer"
            values[inner[name]] = replace(values[name], name=inner[name])
            values[name] = Value(name, values[name].shape, "float32")
    begin = (Operation("QUANTIZE", (name,), (inner[name],), path=name) for name in graph.inputs if name in inner)
    end = (Operation("DEQUANTIZE", (inner[name],), (name,), path=name) for name in graph.outputs if name in inner)
    middle = (operation.renamed(inner) for operation in graph.operations)
    return replace(graph, values=values, operations=(*begin, *middle, *end))


def with_integer_ports(graph: IntegerGraph) -> IntegerGraph:
    """The graph without a QUANTIZE that alone reads an input, or a DEQUANTIZE whose result is only an output.

    The integers behind it become the input or output, under its name.
    """
    conversions = {**_quantized_inputs(graph), **_dequantized_outputs(graph)}
    names = {integer: port for port, (_, integer) in conversions.items()}
    if not names:
        return graph
    values = {name: value for name, value in graph.values.items() if name not in names and name not in conversions}
    values.update({port: replace(graph.values[integer], name=port) for integer, port in names.items()})
    removed = {id(operation) for operation, _ in conversions.values()}
    operations = (operation.renamed(names) for operation in graph.operations if id(operation) not in removed)
    return replace(graph, values=values, operations=tuple(operations))


Conversions = Mapping[str, tuple[Operation, str]]


def _quantized_inputs(graph: IntegerGraph) -> Conversions:
    """For each input that only a QUANTIZE reads, that operation and the integers it makes."""
    reads = Counter(name for operation in graph.operations for name in operation.inputs)
    reads.update(graph.outputs)
    return {
        operation.inputs[0]: (operation, operation.outputs[0])
        for operation in graph.operations
        if operation.kind == "QUANTIZE"
        and operation.inputs[0] in graph.inputs
        and graph.values[operation.inputs[0]].grid is None
        and reads[operation.inputs[0]] == 1
        and operation.outputs[0] not in graph.outputs
    }


def _dequantized_outputs(graph: IntegerGraph) -> Conversions:
    """For each output that only a DEQUANTIZE makes and nobody else reads, that operation and the integers it reads."""
    read = {name for operation in graph.operations for name in operation.inputs}
    computed = {name for operation in graph.operations if operation.kind != "QUANTIZE" for name in operation.outputs}
    found = {
        operation.inputs[0]: operation
        for operation in graph.operations
        if operation.kind == "DEQUANTIZE" and operation.outputs[0] in graph.outputs
    }
    return {
        operation.outputs[0]: (operation, integer)
        for integer, operation in found.items()
        if operation.outputs[0] not in read and integer in computed and integer not in graph.outputs
    }
