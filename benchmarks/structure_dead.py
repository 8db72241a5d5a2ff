"""MLPerf Tiny's visual wake words without its dead channels: the same outputs from a fraction of the network."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from cifar10 import images
from mlperf_tiny import vww
from torch import Tensor, nn

from haversack.device import find_device
from haversack.graph.cost import Cost, cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import MICRO
from haversack.task import Task
from haversack.techniques.prune_dead_channels import PruneDeadChannels
from haversack.techniques.quantize_static import QuantizeStatic

COUNT = 300


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """What is left of parameters, MACs, latency and files, and the largest difference of any output.

    `smallest` is the network without all its dead channels, whatever multiple this machine's kernels like.
    Without photos of people the inputs are noise and enlarged CIFAR-10 images; int8 files of both networks are
    calibrated on the latter, and their outputs compared with the float network's.
    """
    network, smooth = vww(data / "mlperf-tiny"), enlarged(data)
    whole = Model(network, (torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0)),))
    started = time.monotonic()
    (step,) = PruneDeadChannels.options(whole, find_device("host"))
    task = Task(train=list, calibrate=None, score=lambda _: 0.0)
    small = step.apply(whole, task)
    seconds = time.monotonic() - started
    noise = torch.rand(COUNT, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    smallest = PruneDeadChannels(multiple=1).apply(whole, task)
    before, after, least = _cost(whole), _cost(small), _cost(smallest)
    files = [ONNX.write(lower(model)) for model in (whole, small, smallest)]
    _, *timed = host.time_files(files, seconds=1 if quick else 6)
    ratio = timed[0].ratio
    return {
        "vww.multiple": step.multiple,
        "vww.parameters": after.parameters,
        "vww.parameters_ratio": after.parameters / before.parameters,
        "vww.macs_ratio": after.macs / before.macs,
        "vww.max_difference": max(
            difference(whole.module, model.module, inputs) for model in (small, smallest) for inputs in (noise, smooth)
        ),
        "vww.max_difference_of_files": float((host.load(files[0])(smooth) - host.load(files[1])(smooth)).abs().max()),
        "vww.latency_ratio": ratio.value,
        "vww.latency_ratio_spread": [ratio.low, ratio.high],
        "vww.onnx_bytes": len(files[1]),
        "vww.onnx_ratio": len(files[1]) / len(files[0]),
        "vww.smallest_parameters_ratio": least.parameters / before.parameters,
        "vww.smallest_macs_ratio": least.macs / before.macs,
        "vww.smallest_latency_ratio": timed[1].ratio.value,
        "vww.seconds": seconds,
        **_integers(whole, small, smooth, data),
    }


def _integers(whole: Model, small: Model, inputs: Tensor, data: Path) -> dict[str, object]:
    """Sizes of int8 files, and how far their outputs are from the float network's on images that did not calibrate."""
    task = Task(train=list, calibrate=lambda: [inputs[:100]], score=lambda _: 0.0)
    found: dict[str, object] = {}
    with torch.no_grad():
        wanted = whole.module(inputs[100:])
    for name, model in (("whole", whole), ("small", small)):
        lowered = lower(QuantizeStatic(8, "int8").apply(model, task))
        files = {"tflite": MICRO.write(lowered), "onnx": ONNX.write(lowered)}
        for kind, file in files.items():
            outputs = host.load(file)(inputs[100:])
            found[f"vww.{name}_int8_{kind}_bytes"] = len(file)
            found[f"vww.{name}_int8_{kind}_error"] = float((outputs - wanted).abs().mean())
            found[f"vww.{name}_int8_{kind}_agreement"] = float((outputs.argmax(1) == wanted.argmax(1)).float().mean())
    reference = (data / "mlperf-tiny" / "vww_96_int8.tflite").stat().st_size
    return found | {"vww.small_int8_tflite_over_reference": len(files["tflite"]) / reference}


def enlarged(data: Path) -> Tensor:
    """Smooth images: CIFAR-10's, enlarged."""
    pixels = images(data)[0].pixels[:COUNT].float() / 255
    return nn.functional.interpolate(pixels, size=96, mode="bilinear")


def difference(ours: nn.Module, theirs: nn.Module, inputs: Tensor) -> float:
    """The largest difference of any output."""
    with torch.no_grad():
        return max(float((ours(batch) - theirs(batch)).abs().max()) for batch in inputs.split(50))


def _cost(model: Model) -> Cost:
    return cost(trace(model.module, model.example))
