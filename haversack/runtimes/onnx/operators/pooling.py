"""Pooling and resizing over the dimensions behind batch and channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from haversack.runtimes.onnx.call import Call, Table


@dataclass(frozen=True)
class Windows:
    """Where a pooling operation looks."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    behind: list[int]

    @property
    def sticks_out(self) -> bool:
        """Whether the last window reaches beyond the padding."""
        return self.behind != self.padding

    def attributes(self) -> dict[str, Any]:
        """The attributes of an ONNX pooling operation; what equals ONNX's default is None."""
        return {
            "kernel_shape": self.kernel,
            "strides": None if set(self.stride) == {1} else self.stride,
            "pads": [*self.padding, *self.behind] if any(self.padding + self.behind) else None,
        }


def max_pool(call: Call) -> str:
    """The largest number in each window."""
    dilation = call.spatial("dilation", _dims(call))
    windows = _windows(call, dilation)
    return call.graph.node(
        "MaxPool", call.x, **windows.attributes(), dilations=None if set(dilation) == {1} else dilation
    )


def average_pool(call: Call) -> str:
    """AveragePool; over the whole map it is GlobalAveragePool, which ONNX Runtime fuses and quantizes best."""
    windows = _windows(call)
    if call.arguments.get("divisor_override") is not None or (windows.sticks_out and any(windows.padding)):
        raise call.unsupported("with a divisor, or with padding and a last window that sticks out")
    whole = windows.kernel == [size for size in call.shape[2:] if isinstance(size, int)]
    if whole and not any(windows.padding):
        return call.graph.node("GlobalAveragePool", call.x)
    counted = 1 if any(windows.padding) and call["count_include_pad"] else None
    # Numbers behind the map are not counted, as in torch.
    return call.graph.node("AveragePool", call.x, **windows.attributes(), count_include_pad=counted)


def _windows(call: Call, dilation: list[int] | None = None) -> Windows:
    """Padding behind is as much as torch's last window needs: ONNX's ceil_mode keeps one that torch drops."""
    if "pool" in str(call.operation.target) and len(call.shape) != _dims(call) + 2:
        raise call.unsupported("without a batch dimension")
    dims = _dims(call)
    kernel, padding = call.spatial("kernel_size", dims), call.spatial("padding", dims)
    # No strides mean windows side by side.
    stride = call.spatial("stride", dims) if call["stride"] else kernel
    if not call["ceil_mode"]:
        return Windows(kernel, stride, padding, padding)
    rates = dilation or [1] * dims
    behind = [
        max((int(count) - 1) * step + (size - 1) * rate + 1 - call.size(2 + dim) - padding[dim], padding[dim])
        for dim, (count, step, size, rate) in enumerate(zip(call.result[2:], stride, kernel, rates, strict=True))
    ]
    return Windows(kernel, stride, padding, behind)


def _dims(call: Call) -> int:
    """1, 2 or 3: the figure in the operation's name."""
    return int(next(letter for letter in str(call.operation.target) if letter.isdigit()))


def adaptive_average_pool(call: Call) -> str:
    """Averages of windows that share the map out; where they differ in size, a matrix product a dimension."""
    wanted = call.spatial("output_size", _dims(call))
    if set(wanted) == {1}:
        return call.graph.node("GlobalAveragePool", call.x)
    sizes = call.sizes(2)
    wanted = [size if target is None else target for size, target in zip(sizes, wanted, strict=True)]
    if all(size % target == 0 for size, target in zip(sizes, wanted, strict=True)):
        kernel = [size // target for size, target in zip(sizes, wanted, strict=True)]
        return call.graph.node("AveragePool", call.x, kernel_shape=kernel, strides=kernel)
    if len(sizes) > 2:
        raise call.unsupported("with windows of several sizes in three dimensions")
    result = call.graph.node("MatMul", call.x, call.graph.constant(_averaging(sizes[-1], wanted[-1])))
    if len(sizes) == 2:
        result = call.graph.node("MatMul", call.graph.constant(_averaging(sizes[0], wanted[0]).t()), result)
    return result


def _averaging(size: int, wanted: int) -> torch.Tensor:
    """The (size, wanted) matrix whose column j averages torch's adaptive window j."""
    matrix = torch.zeros(size, wanted)
    for column in range(wanted):
        start, end = column * size // wanted, -(-(column + 1) * size // wanted)
        matrix[start:end, column] = 1 / (end - start)
    return matrix


def adaptive_max_pool(call: Call) -> tuple[str, ...] | str:
    """The largest numbers of windows that share the map out evenly; their places are not written."""
    wanted = call.spatial("output_size", _dims(call))
    if set(wanted) == {1}:
        return (call.graph.node("GlobalMaxPool", call.x),)
    sizes = call.sizes(2)
    if any(size % target for size, target in zip(sizes, wanted, strict=True)):
        raise call.unsupported("with windows of several sizes")
    kernel = [size // target for size, target in zip(sizes, wanted, strict=True)]
    return (call.graph.node("MaxPool", call.x, kernel_shape=kernel, strides=kernel),)


def resize(call: Call) -> str:
    """Upsampling as torch counts pixels: corners for nearest, centres or aligned corners else."""
    name, rank = str(call.operation.target), len(call.shape)
    if "nearest" in name:
        exact = "exact" in name
        how: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "half_pixel" if exact else "asymmetric",
            "nearest_mode": "round_prefer_ceil" if exact else "floor",
        }
    else:
        how = {
            "mode": "cubic" if "cubic" in name else "linear",
            "coordinate_transformation_mode": "align_corners" if call["align_corners"] else "half_pixel",
            "cubic_coeff_a": -0.75 if "cubic" in name else None,
        }
    factors = _factors(call, rank)
    if factors is None:
        sizes = call.shape_value(call.result[2:])
        return call.graph.node("Resize", call.x, "", "", sizes, axes=list(range(2, rank)), **how)
    # All dimensions are spelled out: ONNX Runtime's layout optimizer miscounts a Resize with axes (1.32).
    return call.graph.node(
        "Resize", call.x, "", call.graph.constant(torch.tensor([1.0, 1.0, *factors]), exact=True), **how
    )


def _factors(call: Call, rank: int) -> list[float] | None:
    """How much larger each dimension becomes, where torch was told so or where it is a whole number."""
    given = call.arguments.get("scale_factors")
    if given:
        return [float(factor) for factor in given]
    sizes = [(call.shape[dim], call.result[dim]) for dim in range(2, rank)]
    if all(isinstance(old, int) and isinstance(new, int) and new % old == 0 for old, new in sizes):
        return [float(new // old) for old, new in sizes]
    return None


TABLE: Table = {
    "aten._upsample_nearest_exact1d": resize,
    "aten._upsample_nearest_exact2d": resize,
    "aten.adaptive_avg_pool1d": adaptive_average_pool,
    "aten.adaptive_avg_pool2d": adaptive_average_pool,
    "aten.adaptive_avg_pool3d": adaptive_average_pool,
    "aten.adaptive_max_pool1d": adaptive_max_pool,
    "aten.adaptive_max_pool2d": adaptive_max_pool,
    "aten.avg_pool1d": average_pool,
    "aten.avg_pool2d": average_pool,
    "aten.avg_pool3d": average_pool,
    "aten.max_pool1d": max_pool,
    "aten.max_pool2d": max_pool,
    "aten.max_pool3d": max_pool,
    "aten.upsample_bicubic2d": resize,
    "aten.upsample_bilinear2d": resize,
    "aten.upsample_linear1d": resize,
    "aten.upsample_nearest1d": resize,
    "aten.upsample_nearest2d": resize,
    "aten.upsample_nearest3d": resize,
}
