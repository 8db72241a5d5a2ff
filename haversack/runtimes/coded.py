"""Coded: all weights of a network in one small file, and back into the network that they are of.

The file holds what the device computes with: batch norm is merged, quantized weights are integers with their steps,
tensors of few different numbers are codebooks, and everything is entropy coded. It holds no graph: what computes with
the weights is on the device already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from haversack.coded import container
from haversack.coded.tensors import Integers, Stored
from haversack.errors import CodedError
from haversack.graph.folded import Folded
from haversack.graph.inference import inference
from haversack.graph.write_back import written_back
from haversack.grid import Grid
from haversack.model import Model

Array = np.ndarray[Any, Any]


def write(model: Model) -> bytes:
    """The weights of the folded network, named as there; a negative zero is written as zero."""
    tensors = _real(inference(model))
    return container.write({name: _stored(tensor, model.grids.get(name)) for name, tensor in tensors.items()})


def read(content: bytes) -> dict[str, Array]:
    """The real numbers of each tensor in the file, float32; raises CodedError as `container.read` does."""
    return {name: tensor.real for name, tensor in container.read(content).items()}


def restored(content: bytes, model: Model) -> Model:
    """`model` with the weights of the file, which a model of the same structure was written to.

    Weights that are integers in the file get their grids; grids of values between layers stay those of `model`. Raises
    CodedError for a file of another network, or for one that changes a tensor which the network computes or shares.
    """
    tensors = container.read(content)
    folded = inference(model)
    _check(folded, tensors)
    wanted = {name: torch.from_numpy(np.array(tensor.real)) for name, tensor in tensors.items()}
    writable = folded.writable
    for name in wanted.keys() - writable:
        if not torch.equal(wanted[name], _rounded(folded.tensor(name), tensors[name])):
            raise CodedError("the network computes or shares this tensor.", where=name, mend="write it from the file.")
    grids = {name: _grid(tensor) for name, tensor in tensors.items() if isinstance(tensor, Integers)}
    kept = {name: grid for name, grid in model.grids.items() if name not in wanted}
    settled = written_back(model, folded, {name: wanted[name] for name in wanted.keys() & writable})
    return replace(settled, grids=kept | grids)


def _real(folded: Folded) -> dict[str, Tensor]:
    """The float tensors that the graph reads."""
    return {name: tensor.detach() for name, tensor in folded.tensors.items() if tensor.dtype == torch.float32}


def _stored(tensor: Tensor, grid: Grid | None) -> Stored:
    if grid is None:
        return container.stored((tensor + 0.0).numpy())
    grouped = grid.axis == 0 and len(grid.scale) != len(tensor)
    rows = tensor.reshape(len(grid.scale), -1) if grouped else tensor
    integers = grid.quantize(rows).reshape(tensor.shape).numpy()
    narrow = grid.signed and grid.qmin > -(1 << grid.bits - 1)
    steps = np.array(grid.scale, np.float32)
    return Integers(integers, steps, np.array(grid.zero_point), grid.axis, grid.bits, grid.signed, narrow)


def _rounded(tensor: Tensor, stored: Stored) -> Tensor:
    """What a tensor of the network is in the file, whose steps it may be rounded to."""
    if not isinstance(stored, Integers):
        return tensor
    grid = _grid(stored)
    grouped = grid.axis == 0 and len(grid.scale) != len(tensor)
    return grid.round(tensor.reshape(len(grid.scale), -1) if grouped else tensor).reshape(tensor.shape)


def _grid(tensor: Integers) -> Grid:
    top = (1 << tensor.bits - 1) - 1
    ends = (-top, top) if tensor.signed and tensor.narrow else (0, 0)
    steps = tuple(tensor.scale.tolist())
    zeros = tuple(tensor.zero_point.tolist()) or (0,) * len(steps)
    return Grid(tensor.bits, tensor.signed, steps, zeros, tensor.axis, *ends)


def _check(folded: Folded, tensors: Mapping[str, Stored]) -> None:
    """Raises CodedError unless the file has the network's tensors in their shapes."""
    ours = {name: tuple(tensor.shape) for name, tensor in _real(folded).items()}
    different = [
        name for name in ours.keys() | tensors.keys() if name not in tensors or ours.get(name) != tensors[name].shape
    ]
    if different:
        raise CodedError(
            f"the file is of another network: {', '.join(sorted(different)[:3])} differ.",
            mend="restore it onto the network that it was written from, with the same structure.",
        )
