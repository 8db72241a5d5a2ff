"""The folder is the list of runtimes that files are written for."""

from __future__ import annotations

from haversack.artifact import Runtime
from haversack.device import Device
from haversack.errors import DeviceError


def find_runtime(device: Device) -> Runtime:
    """The runtime whose files this device runs."""
    if device.runtime != "onnx":
        raise DeviceError(
            f"{device.name} runs {device.runtime}, and there is no writer for that yet.",
            mend="`weigh` and `advise` work for it; pack for a device that runs onnx.",
        )
    from haversack.export.onnx import RUNTIME

    return RUNTIME
