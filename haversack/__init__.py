"""Haversack fits a trained neural network into the device that has to carry it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haversack.device import Device, find_device
    from haversack.errors import HaversackError
    from haversack.limits import Budget
    from haversack.packing import Packed, Settings, apply, pack
    from haversack.packing.result import load
    from haversack.preparing import Prepare
    from haversack.task import Task

__version__ = "0.1.0"
_HOME = {
    "device": ("Device", "find_device"),
    "errors": ("HaversackError",),
    "limits": ("Budget",),
    "packing": ("Packed", "Settings", "apply", "pack"),
    "packing.result": ("load",),
    "preparing": ("Prepare",),
    "task": ("Task",),
}
__all__ = [
    "Budget",
    "Device",
    "HaversackError",
    "Packed",
    "Prepare",
    "Settings",
    "Task",
    "__version__",
    "apply",
    "find_device",
    "load",
    "pack",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Public names are imported when they are used: `import haversack` must not import torch."""
    for home, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"haversack.{home}"), name)
    raise AttributeError(f"module 'haversack' has no attribute '{name}'")


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted(__all__)
