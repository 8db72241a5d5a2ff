"""The integer graph: TFLite's operations on values whose grids are settled, in the layout that devices compute in.

Every writer of integer files and the NumPy reference read this one graph, so that they agree to the bit. A kind is the
name of TFLite's builtin operator and means what TFLite's specification says: activations are channels-last (NHWC; a
1-D convolution is a CONV_2D of height 1), weights of CONV_2D and TRANSPOSE_CONV are (out, height, width, in), of
DEPTHWISE_CONV_2D (1, height, width, out), of FULLY_CONNECTED (out, in). Padding is explicit: convolutions and pools are
written "VALID" after a PAD, or "SAME" where TensorFlow's SAME gives the same. An operation all of whose values have
grids is computed on integers; one whose values have none is computed in float32; QUANTIZE and DEQUANTIZE lie between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from haversack.grid import Grid

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor: what an operation reads or writes, for a batch of one.

    `grid` says what the integers stand for; None means real numbers (float32), or plain integers such as axes and
    shapes. `data` holds a constant's numbers, one int8 an element whatever the grid's bits; writers pack them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    grid: Grid | None = None
    data: Array | None = None


@dataclass(frozen=True)
class Operation:
    """One of TFLite's builtin operators, with its options under the names of TFLite's schema in lower case.

    CONV_2D, TRANSPOSE_CONV: stride (h, w), dilation (h, w), padding "VALID" | "SAME". DEPTHWISE_CONV_2D: these and
    depth_multiplier. MAX_POOL_2D, AVERAGE_POOL_2D: filter (h, w), stride, padding. FULLY_CONNECTED: keep_num_dims.
    CONCATENATION: axis. MEAN, REDUCE_MAX: keep_dims; axes are the second input. SOFTMAX: beta. LEAKY_RELU: alpha.
    RESIZE_NEAREST_NEIGHBOR: half_pixel_centers. SPLIT: num_splits; the axis is its first input. All that fuse an
    activation: activation "NONE" | "RELU" | "RELU6". An input that is left out (a bias) is "".
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str = ""

    def renamed(self, names: Mapping[str, str]) -> Operation:
        """The same operation on values of other names."""
        inputs, outputs = (tuple(names.get(name, name) for name in ends) for ends in (self.inputs, self.outputs))
        return replace(self, inputs=inputs, outputs=outputs)


@dataclass(frozen=True, eq=False)
class IntegerGraph:
    """Operations in an order in which they can run, the values between them, and how torch's inputs are laid out.

    `input_orders` and `output_orders` say for each input and output which of torch's dimensions stand along its axes:
    (0, 2, 3, 1) is NHWC.
    """

    values: Mapping[str, Value]
    operations: tuple[Operation, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_orders: tuple[tuple[int, ...], ...]
    output_orders: tuple[tuple[int, ...], ...]

    def constants(self) -> Iterator[Value]:
        """The values that are stored in a file."""
        return (value for value in self.values.values() if value.data is not None)
