"""Named tensors: the numbers of a network, as its state names them."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each under all of its names; the tensors are the module's own."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def on_the_same_tensors(module: nn.Module) -> nn.Module:
    """A copy of `module` that may get another mode and other layers; its tensors are the module's own."""
    own = {id(tensor): tensor for tensor in named_tensors(module).values()}
    return copy.deepcopy(module, own)


def is_finite(tensor: Tensor) -> bool:
    """Whether no number of the tensor is NaN or infinite."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # Both ends are NaN where anything is.
    return all(math.isfinite(float(end)) for end in tensor.detach().aminmax())


def digest(tensors: Tensors, *words: object) -> str:
    """A hash of tensors by name and content, and of the words beside them."""
    found = hashlib.sha256(repr(words).encode())
    for name, tensor in tensors.items():
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        # The tensor's memory: numpy knows no bfloat16.
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
