"""Named tensors: the numbers of a network, as its state names them."""

from __future__ import annotations

from torch import Tensor, nn


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each under all of its names; the tensors are the module's own."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
