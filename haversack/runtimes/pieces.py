"""Pieces: what a runtime runs as one, described so that it can be written as a small file of its own and timed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

Shape = tuple[int, ...]
_BYTES = {"float32": 4.0, "int8": 1.0, "int4": 0.5, "dynamic": 1.0}
"""A number of a weight; values have no fewer than one."""


@dataclass(frozen=True, order=True)
class Piece:
    """A layer with what its runtime fuses into it, or an operation without weights. Shapes are for one sample."""

    kind: str
    """As graph.ops names the operation: conv2d, linear, add, avg_pool2d."""
    inputs: tuple[Shape, ...]
    output: Shape
    weight: Shape = ()
    """As torch lays it. Of a pool, the window; where that is left out, it follows from the shapes."""
    stride: Shape = ()
    padding: Shape = ()
    dilation: Shape = ()
    groups: int = 1
    activation: str = ""
    """What is fused behind it, such as relu; empty where nothing is."""
    numbers: str = "float32"
    """float32; int8 where values and weights are integers; int4 where such weights have no more than 4 bits; dynamic
    where weights are and values become integers as they come."""

    @property
    def is_layer(self) -> bool:
        """Whether it multiplies by weights."""
        return self.kind.startswith("conv") or self.kind == "linear"

    @property
    def macs(self) -> int:
        """Multiplications of one sample."""
        if not self.is_layer:
            return 0
        outputs = math.prod(self.output)
        if self.kind.startswith("conv_transpose"):
            return math.prod(self.inputs[0]) * math.prod(self.weight[1:])
        return outputs * math.prod(self.weight[1:])

    @property
    def moved_bytes(self) -> float:
        """Bytes of inputs, weights and outputs, each read or written once."""
        values, weights = sum(map(math.prod, (*self.inputs, self.output))), math.prod(self.weight) * self.is_layer
        width = _BYTES.get(self.numbers, 4.0)
        return values * (4.0 if self.numbers == "dynamic" else max(width, 1.0)) + weights * width

    @property
    def passes_integers(self) -> bool:
        """Whether what it reads and gives are integers."""
        return self.numbers in ("int8", "int4")

    @cached_property
    def axes(self) -> Shape:
        """The numbers of channels that techniques change apart from each other: one where all must be equal."""
        inputs, output = (_channels(shape, self.kind) for shape in self.inputs), _channels(self.output, self.kind)
        if (self.is_layer and self.groups == 1) or self.kind in _RESIZE:
            return (*inputs, output)
        several = tuple(inputs)
        return several if len(set(several)) > 1 or self.kind == "cat" else several[:1]

    @cached_property
    def family(self) -> tuple[object, ...]:
        """What pieces share that differ in channels alone."""
        shapes = tuple(_without_channels(shape, self.kind) for shape in (*self.inputs, self.output))
        kernel = self.weight[2:] if self.is_layer else self.weight
        rest = replace(self, inputs=(), output=(), weight=(), groups=min(self.groups, 2))
        return rest, shapes, kernel, len(self.axes)


_RESIZE = frozenset({"pad", "constant_pad_nd", "slice"})
"""May give fewer or more channels than they read."""


def _channels(shape: Shape, kind: str) -> int:
    return max(1, shape[_channel_dim(kind)]) if shape else 1


def _without_channels(shape: Shape, kind: str) -> Shape:
    rest = list(shape)
    if rest:
        del rest[_channel_dim(kind)]
    return tuple(rest)


def _channel_dim(kind: str) -> int:
    return -1 if kind in {"linear", "softmax"} else 0
