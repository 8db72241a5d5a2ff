"""Pieces: what a runtime runs as one, described so that it can be written as a small file of its own and timed."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True, order=True)
class Piece:
    """A layer with what its runtime fuses into it, or an operation without weights. Shapes are for one sample."""

    kind: str
    """As graph.ops names the operation: conv2d, linear, add, avg_pool2d."""
    inputs: tuple[Shape, ...]
    output: Shape
    weight: Shape = ()
    stride: Shape = ()
    padding: Shape = ()
    dilation: Shape = ()
    groups: int = 1
    activation: str = ""
    """What is fused behind it, such as relu; empty where nothing is."""
    numbers: str = "float32"
    """float32, or int8 where values and weights are integers."""
