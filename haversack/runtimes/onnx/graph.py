"""The ONNX graph that is growing: values, nodes, and constants that are stored once."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import onnx
import torch
from onnx import helper
from torch import Tensor

from haversack.runtimes.onnx.file import content
from haversack.runtimes.onnx.storage import ELEMENT_TYPES, is_packed, stored, whole

# What torch computes sizes with; they are never negative, so that ONNX's Div rounds as torch does.
_OF_SIZES = {
    "Add": "Add",
    "Mul": "Mul",
    "FloorDiv": "Div",
    "CleanDiv": "Div",
    "Mod": "Mod",
    "PythonMod": "Mod",
    "Max": "Max",
    "Min": "Min",
}
_LEAST_DERIVED = 8
"""A node takes as many bytes as so few steps."""
_HALF_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class FreeDim:
    """A size that is known when the file runs: its name in the file, and an input's dimension that has it."""

    name: str
    source: str
    dim: int


@dataclass
class OnnxGraph:
    """Nodes and initializers so far. Values are named "a1", constants "w1": names are bytes in the user's flash.

    `mark` stands before them where inputs are called so.
    """

    float16: bool = False
    mark: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    types: dict[str, torch.dtype] = field(default_factory=dict)
    free: dict[str, FreeDim] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _constants: dict[tuple[torch.dtype, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _sizes: dict[str, str | None] = field(default_factory=dict)

    def node(self, operation: str, *inputs: str, dtype: torch.dtype | None = None, **attributes: Any) -> str:  # noqa: ANN401
        """The result of a new node; attributes that are None are left out. It has the first input's type or `dtype`."""
        return self.split(operation, *inputs, outputs=1, dtype=dtype, **attributes)[0]

    def split(
        self,
        operation: str,
        *inputs: str,
        outputs: int,
        dtype: torch.dtype | None = None,
        **attributes: Any,  # noqa: ANN401
    ) -> tuple[str, ...]:
        """The results of a new node that has several."""
        first = len(self.types) + 1
        names = tuple(f"{self.mark}a{first + index}" for index in range(outputs))
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(operation, _without_trailing_gaps(inputs), names, **given))
        for name in names:
            self.types[name] = dtype or self.types[inputs[0]]
        return names

    def constant(self, value: Tensor, *, exact: bool = False) -> str:
        """An initializer that holds `value`; the same numbers are stored once.

        A float16 graph keeps its numbers as float16, but for `exact` ones.
        """
        stored = value.detach().cpu()
        stored = stored if exact else _stored(stored, self.stored_type(stored.dtype))
        digest = hashlib.sha256(stored.contiguous().numpy().data).digest()
        key = (stored.dtype, tuple(stored.shape), digest)
        name = self._constants.setdefault(key, f"{self.mark}w{len(self._constants) + 1}")
        self.types[name], self.tensors[name] = stored.dtype, stored
        return name

    def integers(self, values: Sequence[int]) -> str:
        """An int64 initializer: axes, sizes, indices."""
        return self.constant(torch.tensor(list(values), dtype=torch.int64))

    def sizes(self, sizes: Sequence[int | torch.SymInt]) -> str | None:
        """A shape as a value; free sizes follow from those of the inputs. None where it cannot be said how."""
        whole = [size for size in sizes if isinstance(size, int)]
        if len(whole) == len(sizes):
            return self.integers(whole)
        parts = [self.size(size) for size in sizes]
        known = [part for part in parts if part is not None]
        return self.node("Concat", *known, dtype=torch.int64, axis=0) if len(known) == len(parts) else None

    def size(self, size: int | torch.SymInt) -> str | None:
        """A size as a value of one number. None where it is free, and not computed from sizes of the inputs."""
        if isinstance(size, int):
            return self.integers([size])
        return self._size(size.node.expr)

    def _size(self, expression: Any) -> str | None:  # noqa: ANN401 - of sympy, which torch brings
        name = str(expression)
        if name not in self._sizes:
            self._sizes[name] = self._new_size(expression)
        return self._sizes[name]

    def _new_size(self, expression: Any) -> str | None:  # noqa: ANN401
        free = self.free.get(str(expression))
        if free is not None:
            return self.node("Shape", free.source, dtype=torch.int64, start=free.dim, end=free.dim + 1)
        if expression.is_Integer:
            return self.integers([int(expression)])
        operation = _OF_SIZES.get(type(expression).__name__)
        parts = [self._size(part) for part in expression.args]
        known = [part for part in parts if part is not None]
        if operation is None or len(known) < len(parts):
            return None
        return functools.reduce(lambda left, right: self.node(operation, left, right), known)

    def number(self, value: float, dtype: torch.dtype) -> str:
        """A scalar initializer."""
        return self.constant(torch.tensor(value, dtype=dtype))

    def stored_type(self, dtype: torch.dtype) -> torch.dtype:
        """The type that this file uses for a torch type."""
        return torch.float16 if self.float16 and dtype in {torch.float32, torch.float64} else dtype

    def cast(self, value: str, dtype: torch.dtype) -> str:
        """`value` as `dtype`."""
        if self.types[value] == dtype:
            return value
        return self.node("Cast", value, dtype=dtype, to=ELEMENT_TYPES[dtype])

    def content(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> bytes:
        """The file of the finished graph; constants that no node reads are left out."""
        self._derive_steps()
        read = {name for node in self.nodes for name in node.input}
        steps = self._steps()
        kept = {name: self.tensors[name] for name in self._constants.values() if name in read}
        forms = [(whole if name in steps else stored)(name, value) for name, value in kept.items()]
        nodes = [*{tuple(node.output): node for form in forms for node in form.nodes}.values(), *self.nodes]
        tensors = {name: tensor for form in forms for name, tensor in form.tensors.items()}
        return content(nodes, inputs, outputs, tensors)

    def _derive_steps(self) -> None:
        """Lets the steps of biases be computed, where they are exactly those of the layer's input and weight.

        Only beside a weight in 4 bits: a reader that does not compute constants once is slow with such a file anyway.
        """
        makers = {node.output[0]: node for node in self.nodes if node.op_type == "DequantizeLinear"}
        derived: dict[tuple[str, str], onnx.NodeProto] = {}
        for node in self.nodes:
            layer = [makers.get(name) for name in node.input[:3]]
            if len(layer) < 3 or None in layer:
                continue
            source, weight, bias = cast("list[onnx.NodeProto]", layer)
            held = [self.tensors.get(name) for name in (source.input[1], weight.input[1], bias.input[1])]
            packed = self.tensors.get(weight.input[0])
            if packed is None or not is_packed(packed) or any(each is None for each in held):
                continue
            ours, theirs, wanted = cast("list[Tensor]", held)
            if len(wanted.shape) == 1 and len(wanted) >= _LEAST_DERIVED and torch.equal(ours * theirs, wanted):
                factors = (source.input[1], weight.input[1])
                made = derived.setdefault(
                    factors, helper.make_node("Mul", factors, [f"{weight.input[1]}{source.input[1]}"])
                )
                bias.input[1] = made.output[0]
        self.nodes = [*derived.values(), *self.nodes]

    def _steps(self) -> set[str]:
        """The scales and zero points, which ONNX Runtime's integer kernels want as initializers, however few bits."""
        kinds = {"QuantizeLinear", "DequantizeLinear"}
        return {name for node in self.nodes if node.op_type in kinds for name in node.input[1:]}

    def drop_unread(self, outputs: Sequence[str]) -> None:
        """Removes nodes whose results nobody reads."""
        read, kept = set(outputs), []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                read.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]

    def rename(self, names: dict[str, str]) -> None:
        """Renames values wherever a node reads or writes them."""
        for node in self.nodes:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]


def _without_trailing_gaps(inputs: Sequence[str]) -> list[str]:
    kept = list(inputs)
    while kept and not kept[-1]:
        kept.pop()
    return kept


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    # An infinite mask stays infinite, a large number stays finite.
    narrow = dtype == torch.float16 and value.dtype != torch.float16
    return torch.where(value.isinf(), value, value.clamp(-_HALF_MAX, _HALF_MAX)).to(dtype) if narrow else value
