"""Haversack fits a trained neural network into the device that has to carry it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haversack.device import Budget, Device, find_device
    from haversack.errors import HaversackError
    from haversack.pack import pack
    from haversack.task import Task

__version__ = "0.1.0"
__all__ = ["Budget", "Device", "HaversackError", "Task", "__version__", "find_device", "pack"]

_HOME = {
    "Budget": "device",
    "Device": "device",
    "find_device": "device",
    "HaversackError": "errors",
    "Task": "task",
    "pack": "pack",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Public names are imported when they are used: `import haversack` must not import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'haversack' has no attribute '{name}'")
    return getattr(importlib.import_module(f"haversack.{_HOME[name]}"), name)
