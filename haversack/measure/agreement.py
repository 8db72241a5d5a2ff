"""How far outputs are apart, counted in what files store: equal numbers, steps and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx

from haversack.errors import ParityError
from haversack.graph.qdq import pairs
from haversack.proof import Agreement


@dataclass(frozen=True)
class Scale:
    """What output differences are counted in: the steps of the output's grid, or None."""

    step: float | None
    zero_point: int = 0
    itemsize: int = 4

    @classmethod
    def of(cls, lowered: fx.GraphModule) -> Scale:
        """The grid that the network's output lies on."""
        output = lowered.graph.output_node().args[0]
        if not isinstance(output, fx.Node) or output.target is not pairs.dequantize_per_tensor.default:
            return cls(None)
        dtype = cast("torch.dtype", output.args[5])
        return cls(cast("float", output.args[1]), cast("int", output.args[2]), dtype.itemsize)

    def agreement(self, ours: Tensor, theirs: Tensor) -> Agreement:
        """How far `ours` is from `theirs`, the reference's."""
        if ours.shape != theirs.shape:
            raise ParityError(f"the outputs have the shapes {tuple(ours.shape)} and {tuple(theirs.shape)}.")
        one, other = self._numbers(ours), self._numbers(theirs)
        unit = self.step or float(theirs.abs().max()) or 1.0
        return Agreement(
            samples=len(ours),
            equal=float((one == other).mean()),
            max_steps=float((ours.double() - theirs.double()).abs().max()) / unit,
            mismatching_bytes=int((self._bytes(one) != self._bytes(other)).sum()),
            same_class=float((ours.argmax(1) == theirs.argmax(1)).float().mean()) if ours.dim() == 2 else 1.0,
        )

    def _numbers(self, real: Tensor) -> np.ndarray[Any, Any]:
        """The integers that the outputs stand for; real numbers where there is no grid."""
        array = np.ascontiguousarray(real.numpy())
        if self.step is None:
            return array
        integers: np.ndarray[Any, Any] = np.round(array.astype(np.float64) / self.step) + self.zero_point
        return integers.astype(np.int64)

    def _bytes(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The numbers as a file stores them."""
        kind = np.float32 if self.step is None else {1: np.uint8, 2: np.int16}.get(self.itemsize, np.int32)
        return numbers.astype(kind).view(np.uint8)
