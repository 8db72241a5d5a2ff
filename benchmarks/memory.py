"""Memory and speed of what touches every weight: peak resident memory over the network's size.

    python benchmarks/memory.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

NAME is an operation: quantize_static, quantize_weights, lower, write_onnx, write_litert, save, pt2. Its figure is the
peak of a process of its own while the operation runs, less what that process held before the network was there, over
the bytes of the float32 network, which counts as one. The network is made here: 250 million parameters in convolutions
with batch norm and in linear layers, random weights, 32 calibration inputs. What takes a quantized network as well is
measured with both, `.float32` and `.int8`, beside which the float network stays in memory; the larger one is the
figure. Each operation runs on a small network first: what torch loads when it is first used does not count.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rows import THREADS, Asked, Found, Row, main
from torch import nn

from haversack.graph.inference import lower
from haversack.graph.run import named_tensors
from haversack.model import Model
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT
from haversack.surgery.save import export_pt2, save
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_weights import QuantizeWeights

STEPS = {"quantize_static": QuantizeStatic(8, "int8"), "quantize_weights": QuantizeWeights(8)}
READERS = ("lower", "write_onnx", "write_litert", "save", "pt2")
ASKED = Asked(at_least={"quantize_weights.mb_per_s": 50}, at_most=dict.fromkeys((*STEPS, *READERS), 3.0))
_SAMPLES = 32


@dataclass(frozen=True)
class Shape:
    """How wide the network is."""

    channels: int
    features: int
    outputs: int

    def model(self) -> Model:
        """Convolutions with batch norm on maps of 4 x 4, then linear layers, with random weights."""
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for before, stride in ((3, 2), *((self.channels, 1),) * 6):
            convolution = nn.Conv2d(before, self.channels, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(self.channels), nn.ReLU()]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels, self.features), nn.ReLU()]
        layers += [nn.Linear(self.features, self.features), nn.ReLU(), nn.Linear(self.features, self.outputs)]
        return Model(nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 8, 8),))


WHOLE, SMALL = Shape(1664, 8192, 2500), Shape(96, 512, 100)


@dataclass(frozen=True)
class Cost:
    """What an operation took; the peak counts from before there was a network."""

    peak_bytes: int
    network_bytes: int
    seconds: float
    cpu_seconds: float

    @property
    def peak(self) -> float:
        """In networks."""
        return self.peak_bytes / self.network_bytes


def cost(name: str, shape: Shape, *, integer: bool = False) -> Cost:
    """What the operation costs in this process, on the float network or on the same in int8."""
    with tempfile.TemporaryDirectory() as folder:
        gc.collect()
        before = status_bytes("VmRSS")
        model = shape.model()
        run = _ready(name, model, Path(folder), integer=integer)
        gc.collect()
        # From here on the kernel keeps a new peak (proc(5): clear_refs).
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        start, cpu = time.monotonic(), time.process_time()
        result = run()
        seconds, cpu = time.monotonic() - start, time.process_time() - cpu
        del result
    size = sum(tensor.nbytes for tensor in named_tensors(model.module).values())
    return Cost(status_bytes("VmHWM") - before, size, seconds, cpu)


def row(name: str) -> Row:
    """The row of one operation."""

    def figures(_: Path, quick: bool) -> Found:  # noqa: FBT001 - a row's two arguments
        shape = SMALL if quick else WHOLE
        if name in STEPS:
            found = _alone(name, shape, integer=False)
            figures = {name: found.peak, f"{name}.seconds": found.seconds}
            speed = {f"{name}.mb_per_s": found.network_bytes / 1e6 / found.seconds} if "weights" in name else {}
            return {**figures, **speed, f"{name}.network_bytes": found.network_bytes}
        both = {"float32": _alone(name, shape, integer=False), "int8": _alone(name, shape, integer=True)}
        peaks = {f"{name}.{form}": each.peak for form, each in both.items()}
        seconds = {f"{name}.{form}_seconds": each.seconds for form, each in both.items()}
        return {name: max(peaks.values()), **peaks, **seconds, f"{name}.network_bytes": both["int8"].network_bytes}

    return figures


def _ready(name: str, model: Model, folder: Path, *, integer: bool) -> Callable[[], object]:
    """The operation, with what it starts from."""
    if name in STEPS:
        return lambda: STEPS[name].apply(model, _task())
    if integer:
        model = STEPS["quantize_static"].apply(model, _task())
    if name == "lower":
        return lambda: lower(model)
    if name == "save":
        return lambda: save(model, folder)
    if name == "pt2":
        return lambda: export_pt2(model, folder / "network.pt2")
    lowered, runtime = lower(model), ONNX if name == "write_onnx" else LITERT
    return lambda: runtime.write(lowered)


def _alone(name: str, shape: Shape, *, integer: bool) -> Cost:
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (THREADS,)) as pool:
        pool.submit(cost, name, SMALL, integer=integer).result()
        return pool.submit(cost, name, shape, integer=integer).result()


def _task() -> Task:
    inputs = torch.randn(_SAMPLES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Task(train=list, calibrate=lambda: [inputs], score=lambda _: 0.0)


def status_bytes(key: str) -> int:
    """What Linux says of this process under that name."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main(__doc__ or "", {name: row(name) for name in (*STEPS, *READERS)}, ASKED)
