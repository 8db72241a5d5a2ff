"""Names of a file's tensors, as the user's network calls its layers; and the runtime that a file needs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from haversack.integer import KINDS, IntegerGraph, Operation

_ROLES = frozenset({"weight", "bias"})
# The first release of TensorFlow Lite with each version of an operator, in the order of versions: 1, 2, ...
# Source: tensorflow/compiler/mlir/lite/tools/versioning/runtime_version.cc.
_RELEASES = {
    "ADD": "1.5.0 1.14.0 2.4.0 2.6.0",
    "AVERAGE_POOL_2D": "1.5.0 1.14.0 2.3.0",
    "CONCATENATION": "1.5.0 1.14.0 2.3.0",
    "CONV_2D": "1.5.0 1.14.0 1.14.0 2.3.0 2.4.0 2.9.0 2.11.0",
    "DEPTHWISE_CONV_2D": "1.5.0 1.12.0 1.14.0 2.2.0 2.3.0 2.3.0 2.11.0",
    "DEQUANTIZE": "1.13.1 1.14.0 1.15.0 2.2.0 2.7.0 2.18.0",
    "FULLY_CONNECTED": "1.5.0 1.10.0 1.14.0 1.14.0 2.0.0 2.1.0 2.3.0 2.3.0 2.3.0 2.11.0",
    "HARD_SWISH": "1.15.0",
    "LEAKY_RELU": "1.13.1 2.3.0",
    "LOGISTIC": "1.14.0 1.14.0 2.3.0",
    "MAXIMUM": "1.14.0 1.14.0 2.3.0 2.3.0",
    "MAX_POOL_2D": "1.5.0 1.14.0 2.3.0",
    "MEAN": "1.6.0 1.14.0 2.4.0",
    "MINIMUM": "1.14.0 1.14.0 2.3.0 2.3.0",
    "MUL": "1.5.0 1.14.0 1.15.0 2.3.0",
    "PAD": "1.5.0 1.14.0 2.4.0 2.6.0",
    "PADV2": "1.9.0 1.14.0 2.4.0 2.6.0",
    "QUANTIZE": "1.14.0 1.15.0",
    "REDUCE_MAX": "1.11.0 1.14.0 2.5.0",
    "RELU": "1.5.0 2.1.0 2.5.0",
    "RELU6": "1.5.0 1.14.0 2.5.0",
    "RELU_N1_TO_1": "1.5.0",
    "RESHAPE": "1.5.0",
    "RESIZE_NEAREST_NEIGHBOR": "1.13.1 1.14.0 2.3.0 2.4.0",
    "SOFTMAX": "1.5.0 1.14.0 2.3.0",
    "SPLIT": "1.5.0 1.14.0 1.14.0 2.3.0",
    "STRIDED_SLICE": "1.6.0 1.14.0 2.1.0 2.2.0",
    "SUB": "1.6.0 1.14.0 2.3.0 2.4.0 2.4.0",
    "TANH": "1.14.0 1.14.0 2.3.0",
    "TRANSPOSE": "1.6.0 1.14.0 1.15.0 2.3.0 2.4.0",
    "TRANSPOSE_CONV": "1.9.0 2.2.0 2.3.0 2.13.0",
}


def tensor_names(graph: IntegerGraph) -> Mapping[str, str]:
    """A name for each tensor that no other has: inputs and outputs keep theirs, others get their layer's path."""
    names = {name: name for name in (*graph.inputs, *graph.outputs)}
    taken = set(names)
    for value, wanted in itertools.chain.from_iterable(map(_wanted, graph.operations)):
        if value and value not in names:
            numbered = (f"{wanted}_{count}" if count else wanted for count in itertools.count())
            names[value] = next(name for name in numbered if name not in taken)
            taken.add(names[value])
    return names


def _wanted(operation: Operation) -> Iterator[tuple[str, str]]:
    """What an operation's values would be called, were there no others."""
    path = operation.path or operation.kind.lower()
    for index, value in enumerate(operation.inputs):
        row = KINDS[operation.kind].input(index)
        role = row.name if row is not None and row.name in _ROLES else f"{operation.kind.lower()}{index}"
        yield value, f"{path}.{role}"
    for value in operation.outputs:
        yield value, path


def oldest_release(versions: Iterable[tuple[str, int]]) -> str:
    """The first release of TensorFlow Lite that has all these operators in these versions."""
    found = (_RELEASES[kind].split()[version - 1] for kind, version in versions)
    return max(found, key=lambda release: tuple(map(int, release.split("."))))
