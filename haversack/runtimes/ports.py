"""Ports: the inputs and outputs of .tflite files, from torch's layout and real numbers to the file's and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from haversack.errors import MeasureError
from haversack.runtimes import Arrays, Opened, Orders

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Order = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """An input or output of a file: its shape for one run, and what its integers stand for.

    Where `order` is None it is guessed from the shape: images lie channels-last if their sizes allow that.
    """

    shape: tuple[int, ...]
    kind: type
    scale: float | None = None
    """The step of the integers; None where the numbers are what they are."""
    zero_point: int = 0
    order: Order | None = None

    @classmethod
    def of(cls, details: dict[str, Any], order: Order | None) -> Port:
        """What an interpreter tells of one of its tensors."""
        shape = tuple(int(size) for size in details["shape"])
        scales, zeros = (details["quantization_parameters"][key] for key in ("scales", "zero_points"))
        scale, zero = (float(scales[0]), int(zeros[0])) if len(scales) else (None, 0)
        return cls(shape, details["dtype"], scale, zero, order)

    def taken(self, array: Array) -> Array:
        """The numbers of torch's `array` as the file wants them: in its layout, on its grid."""
        import numpy as np

        order = self.order or self._fitting(array.shape)
        if tuple(array.shape[dim] for dim in order[1:]) != self.shape[1:]:
            raise MeasureError(f"it takes {list(self.shape)}, but was given {list(array.shape)}.")
        array = np.ascontiguousarray(array.transpose(order))
        if array.dtype == np.uint8 and self.kind is np.int8 and self.scale is not None:
            return (array ^ np.uint8(128)).view(np.int8)  # TFLite's bytes have a sign: 128 less
        if not np.issubdtype(array.dtype, np.floating) or self.scale is None:
            return array.astype(self.kind, copy=False)
        limits = np.iinfo(self.kind)
        steps = np.round(array / np.float32(self.scale)) + self.zero_point
        return np.clip(steps, limits.min, limits.max).astype(self.kind)

    def given(self, array: Array) -> Array:
        """The real numbers of what the file put out, in torch's layout."""
        import numpy as np

        if self.scale is not None:
            array = (array.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)
        order = self.order or (_channels_last(array.ndim) if array.ndim == _IMAGE else tuple(range(array.ndim)))
        return array.transpose(np.argsort(order))

    def _fitting(self, shape: Sequence[int]) -> Order:
        plain, last = tuple(range(len(shape))), _channels_last(len(shape))
        first, second = (last, plain) if len(shape) == _IMAGE else (plain, last)
        return first if tuple(shape[dim] for dim in first[1:]) == self.shape[1:] else second


_IMAGE = 4
"""Dimensions of a batch of images."""


def ports_of(
    inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]], orders: Orders | None
) -> tuple[list[Port], list[Port]]:
    """The ports of what an interpreter tells of a file's inputs and outputs."""

    def of(end: int, described: Sequence[dict[str, Any]]) -> list[Port]:
        known: Sequence[Order | None] = [None] * len(described) if orders is None else orders[end]
        return [Port.of(each, order) for each, order in zip(described, known, strict=True)]

    return of(0, inputs), of(1, outputs)


def opened(
    taken: Sequence[Port], given: Sequence[Port], run: Callable[[Arrays], Sequence[Array]], where: str
) -> Opened:
    """A file that `run` runs in its own layout and numbers, for inputs and outputs in torch's.

    One sample is run at a time unless the file states a larger batch: resizing the batch gained nothing on networks of
    convolutions (LiteRT, ResNet-8 int8: 79 us a sample either way), and not every file can be resized.
    """

    def prepare(arrays: Arrays) -> list[Array]:
        try:
            return [port.taken(array) for port, array in zip(taken, arrays, strict=True)]
        except MeasureError as error:
            raise MeasureError(error.what, where=where, mend=error.mend) from error

    def made(arrays: Arrays) -> list[Array]:
        return [port.given(array) for port, array in zip(given, run(arrays), strict=True)]

    return Opened(len(taken), taken[0].shape[0] if taken[0].shape else 1, prepare, made)


def _channels_last(rank: int) -> Order:
    return tuple(range(rank)) if rank < 3 else (0, *range(2, rank), 1)
