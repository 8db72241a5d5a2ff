"""What quantizing a network for 224 x 224 images costs: CPU seconds and memory, in 8 bits and with weights of 4.

The network is EfficientNet-Lite0, 4.6 million parameters, with random weights, which cost what trained ones do; the 200
calibration images are training images of CIFAR-10, enlarged. Each step runs in a process of its own, with one thread.
What counts is the step alone, in a process that has quantized a small network before, so that nothing is imported; its
memory is the process's peak, less what it held before there was a network: the network and the images are in it.
"""

from __future__ import annotations

import gc
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from cifar10 import images
from memory import Cost, status_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.graph.run import named_tensors
from haversack.model import Model
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.zoo.efficientnet_lite import EfficientNetLite

STEPS = {"": QuantizeStatic(8), "w4a8_": QuantizeStatic(4, rounding="gptq")}
"""By the prefix of its figures."""
SAMPLES, QUICK_SAMPLES = 200, 32
SIZE, BATCH = 224, 50


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` calibrates with 32 images."""
    found: dict[str, object] = {}
    for prefix, step in STEPS.items():
        with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            cost = pool.submit(_cost, step, data, QUICK_SAMPLES if quick else SAMPLES).result()
        found |= {
            f"cost.{prefix}seconds": cost.cpu_seconds,
            f"cost.{prefix}wall_seconds": cost.seconds,
            f"cost.{prefix}peak_mb": cost.peak_bytes / 1e6,
        }
    return found | {"cost.network_mb": cost.network_bytes / 1e6}


def _cost(step: QuantizeStatic, data: Path, samples: int) -> Cost:
    """What the step costs in this process."""
    _quantized(step, _small(), torch.randn(64, 3, 16, 16))
    gc.collect()
    # From here on the kernel keeps a new peak (proc(5): clear_refs).
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = status_bytes("VmRSS")
    torch.manual_seed(0)
    network = EfficientNetLite().eval()
    inputs = F.interpolate(images(data)[0].inputs(slice(samples)), size=(SIZE, SIZE), mode="bilinear")
    start, cpu = time.monotonic(), time.process_time()
    _quantized(step, network, inputs)
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    size = sum(tensor.nbytes for tensor in named_tensors(network).values())
    return Cost(status_bytes("VmHWM") - before, size, seconds, cpu)


def _quantized(step: QuantizeStatic, network: nn.Module, inputs: Tensor) -> Model:
    task = Task(train=list, calibrate=partial(inputs.split, BATCH), score=lambda _: 0.0)
    return step.apply(Model(network, (inputs[:1],)), task)


def _small() -> nn.Module:
    """A network of the operations that the large one has."""
    block = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6()
    return nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
