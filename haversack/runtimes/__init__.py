"""Runtimes: files written for what runs them, run there, compared and timed. The folder is the list of runtimes."""

from __future__ import annotations

from haversack.artifact import Runtime
from haversack.device import Device
from haversack.errors import DeviceError

RUNTIMES = ("onnx", "litert", "tflite-micro", "executorch")
"""What a device may name as its runtime and be packed for."""


def find_runtime(device: Device) -> Runtime:
    """The runtime whose files this device runs."""
    if device.runtime == "onnx":
        from haversack.runtimes.onnx import RUNTIME as ONNX

        return ONNX
    if device.runtime in ("litert", "tflite-micro"):
        from haversack.runtimes.tflite import MICRO
        from haversack.runtimes.tflite import RUNTIME as LITERT

        return LITERT if device.runtime == "litert" else MICRO
    if device.runtime == "executorch":
        from haversack.runtimes.executorch.write import RUNTIME as EXECUTORCH

        return EXECUTORCH
    raise DeviceError(
        f"{device.name} runs {device.runtime}, and there is no writer for that yet.",
        mend=f"`weigh` and `advise` work for it; to pack for it, choose a --runtime: {', '.join(RUNTIMES)}.",
    )
