"""Quantization on real networks: scores, sizes and speeds, each read off the exported file in its runtime.

    python benchmarks/quantization.py --data ../shared/data --json FILE [--only NAME ...] [--quick]

NAME is a row or the beginning of one: resnet20, resnet20.w4a8, mlperf_resnet8, files, speed. CIFAR-10 networks are
calibrated on training images; every setting was chosen on other training images, and the 10,000 test images only
report. The pretrained networks had learned from all training images, those that choose included. Keyword spotting comes
without training data: 100 of its evaluation inputs calibrate, without their labels, and `.uncalibrated` is the score on
the other 900.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import torch
from cifar10 import Epoch, Images, images, pretrained, shifted
from mlperf_tiny import autoencoder, dscnn, resnet8, vww
from rows import Asked, Found, Row, main
from torch import Tensor, nn

from haversack import zoo
from haversack.graph.inference import lower
from haversack.integer.passes import with_integer_ports
from haversack.integer.read import read
from haversack.integer.reference import run
from haversack.model import Model
from haversack.recipe import Step
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT, MICRO
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.techniques.quantize_training import QuantizeTraining

AT_LEAST = {
    "resnet20.w8a8": 0.917,
    "resnet20.w4a8": 0.915,
    "resnet20.w4a8_learned": 0.915,
    "resnet20.w4a8_learned_elsewhere": 0.915,
    "resnet20.qat_w4a4": 0.902,
    "resnet56.w8a8": 0.934,
    "resnet56.w4a8": 0.932,
    "resnet56.w4a8_learned": 0.932,
    "mlperf_resnet8.w8a8": 0.871,
    "mlperf_resnet8.w4a8": 0.862,
    "mlperf_dscnn.w8a8": 0.912,
}
AT_MOST = {
    "resnet20.w8a8.tflite_bytes": 300_000,
    "resnet20.w8a8.onnx_bytes": 331_000,
    "resnet20.w8a8.seconds": 20,
    "resnet20.w4a8.seconds": 30,
    "resnet20.w4a8_learned.seconds": 180,
    "resnet56.w4a8_learned.seconds": 480,
    "mlperf_resnet8.w8a8.tflite_bytes": 98_000,
    "mismatching_bytes": 0,
    "largest_over_reference_bytes": 1,
    "largest_over_reference_latency": 1.05,
    "memory.w8a8_over_allowed": 1,
    "seconds.write_tflite_resnet56": 1,
    "seconds.write_onnx_resnet56": 1,
    "latency.litert_resnet20_int8_over_float": 0.38,
    "latency.onnx_resnet20_int8_over_float": 1,
    "latency.onnx_resnet56_int8_over_float": 1,
    "latency.onnx_mobilenet_v2_int8_over_float": 1,
}
ASKED = Asked(AT_LEAST, AT_MOST)
EPOCHS = 2
REFERENCE_FILES = {"resnet8": "ic_resnet8", "dscnn": "kws_ref_model", "vww": "vww_96", "autoencoder": "ad01"}
NETWORKS = {"resnet8": resnet8, "dscnn": dscnn, "vww": vww, "autoencoder": autoencoder}
INPUTS = 300


@dataclass(frozen=True)
class Data:
    """The data folder, and how much of it is used."""

    folder: Path
    quick: bool = False

    @property
    def test(self) -> Images:
        """The images that report."""
        test = _images(self.folder)[1]
        return test.first(500) if self.quick else test

    def cifar_task(self, count: int, *, raw: bool = False) -> Task:
        """A task that calibrates on `count` training images and trains on all of them; its score is not used."""
        train = _images(self.folder)[0]
        learned = train.first(2_500) if self.quick else train
        some = torch.randperm(45_000, generator=torch.Generator().manual_seed(0))[:count]

        def calibrate() -> list[Tensor]:
            return [_inputs(train, batch, raw=raw) for batch in some.split(100)]

        return Task(train=lambda: Epoch(learned, shifted), calibrate=calibrate, score=lambda _: 0.0)

    def keywords(self) -> tuple[Tensor, Tensor]:
        """The features of kws01_eval, as the network takes them, and their labels."""
        held = np.load(self.folder / "mlperf-tiny" / "kws01_eval.npz")
        features = (torch.from_numpy(held["x"]).float() - 83) * 0.5847029089927673
        return features[:, None], torch.from_numpy(held["y"]).long()


@cache
def _images(folder: Path) -> tuple[Images, Images]:
    return images(folder)


def _inputs(some: Images, which: slice | Tensor, *, raw: bool) -> Tensor:
    return some.pixels[which].float() if raw else some.inputs(which)


def accuracy(predict: Callable[[Tensor], Tensor], test: Images, *, raw: bool) -> float:
    """The share of test images whose label has the highest output."""
    if not raw:
        return test.accuracy(predict)
    right = [
        int((predict(test.pixels[start : start + 500].float()).argmax(1) == test.labels[start : start + 500]).sum())
        for start in range(0, len(test.labels), 500)
    ]
    return sum(right) / len(test.labels)


def cifar(depth: int, step: Step, images_used: int) -> Callable[[str, Data], Found]:
    """The row of a CIFAR ResNet: what `step` makes of it, as ONNX and as .tflite."""

    def row(name: str, data: Data) -> Found:
        network, task = pretrained(data.folder, depth), data.cifar_task(images_used)
        lowered, found = quantized(name, network, step, task)
        for runtime, written in (("onnx", ONNX.write(lowered)), ("tflite", LITERT.write(lowered))):
            found[f"{name}.{runtime}_bytes"] = len(written)
            found[f"{name}.{runtime}"] = accuracy(host.load(written), data.test, raw=False)
        return {name: found[f"{name}.onnx"], **found}

    return row


def mlperf_resnet8(step: Step, images_used: int) -> Callable[[str, Data], Found]:
    """The row of MLPerf Tiny's ResNet-8: its .tflite file on CIFAR-10's test images."""

    def row(name: str, data: Data) -> Found:
        task = data.cifar_task(images_used, raw=True)
        lowered, found = quantized(name, resnet8(data.folder / "mlperf-tiny"), step, task)
        written = LITERT.write(lowered)
        score = accuracy(host.load(written), data.test, raw=True)
        return {name: score, **found, f"{name}.tflite_bytes": len(written)}

    return row


def mlperf_dscnn(step: Step) -> Callable[[str, Data], Found]:
    """The row of MLPerf Tiny's DS-CNN: its .tflite file on the benchmark's evaluation set."""

    def row(name: str, data: Data) -> Found:
        x, y = data.keywords()
        task = Task(train=list, calibrate=lambda: [x[:100]], score=lambda _: 0.0)
        lowered, found = quantized(name, dscnn(data.folder / "mlperf-tiny"), step, task)
        written = LITERT.write(lowered)
        right = (host.load(written)(x).argmax(1) == y).float()
        scores = {name: float(right.mean()), f"{name}.uncalibrated": float(right[100:].mean())}
        return {**scores, **found, f"{name}.tflite_bytes": len(written)}

    return row


def quantized(name: str, network: nn.Module, step: Step, task: Task) -> tuple[torch.fx.GraphModule, Found]:
    """The lowered graph after `step`, and its seconds."""
    example = tuple(each[:1] for each in task.calibration()[0])
    begin = time.monotonic()
    model = step.apply(Model(network, example, teacher=network), task)
    return lower(model), {f"{name}.seconds": time.monotonic() - begin}


def memory(name: str, data: Data) -> Found:
    """How far the resident memory grows while ResNet-20 is quantized, over three calibration sets and the network.

    What torch loads to trace a network counts. Only a run with `--only memory` says something: memory that earlier rows
    used is used again without growing.
    """
    network, task = pretrained(data.folder, 20), data.cifar_task(500)
    inputs = sum(each.nbytes for batch in task.calibration() for each in batch)
    allowed = 3 * inputs + sum(each.nbytes for each in network.parameters())
    found: Found = {}
    for kind, step in (("w8a8", W8A8), ("w4a8", W4A8)):
        before, done, peaks = psutil.Process().memory_info().rss, threading.Event(), [0]
        watch = threading.Thread(target=_watch, args=(done, peaks))
        watch.start()
        quantized(name, network, step, task)
        done.set()
        watch.join()
        found[f"{name}.{kind}_grown_bytes"] = max(peaks) - before
    return {**found, f"{name}.w8a8_over_allowed": float(str(found[f"{name}.w8a8_grown_bytes"])) / allowed}


def _watch(done: threading.Event, peaks: list[int]) -> None:
    while not done.wait(0.01):
        peaks.append(psutil.Process().memory_info().rss)


def originals(name: str, data: Data) -> Found:
    """Scores of the networks as they are, in float32, and the bytes of their ONNX files."""
    found: Found = {}
    for depth in (20, 56):
        example = torch.zeros(1, 3, 32, 32)
        written = ONNX.write(lower(Model(pretrained(data.folder, depth), (example,))))
        found[f"{name}.resnet{depth}"] = accuracy(host.load(written), data.test, raw=False)
        found[f"{name}.resnet{depth}.onnx_bytes"] = len(written)
    x, y = data.keywords()
    with torch.no_grad():
        tiny = resnet8(data.folder / "mlperf-tiny").eval(), dscnn(data.folder / "mlperf-tiny").eval()
        found[f"{name}.mlperf_resnet8"] = accuracy(tiny[0], data.test, raw=True)
        found[f"{name}.mlperf_dscnn"] = float((tiny[1](x).argmax(1) == y).float().mean())
    return found


def files(_: str, data: Data) -> Found:
    """Our int8 .tflite of each MLPerf Tiny network against tflite-micro's arithmetic and the reference file.

    The autoencoder is nothing but linear layers; it has one step a layer, as its reference file has.
    """
    found: Found = {}
    for name, build in NETWORKS.items():
        network, inputs = build(data.folder / "mlperf-tiny"), tiny_inputs(name, data)
        task = Task(train=list, calibrate=lambda inputs=inputs: [inputs[:100]], score=lambda _: 0.0)
        lowered, _ = quantized(name, network, QuantizeStatic(8, "int8", joint_linear=name == "autoencoder"), task)
        written = MICRO.write(lowered)
        reference = data.folder / "mlperf-tiny" / f"{REFERENCE_FILES[name]}_int8.tflite"
        timed = host.time_files([reference.read_bytes(), written], seconds=1 if data.quick else 6)[1].ratio
        found |= {
            f"files.{name}.mismatching_bytes": mismatching(lowered, written, inputs[:INPUTS]),
            f"files.{name}.bytes": len(written),
            f"files.{name}.over_reference_bytes": len(written) / reference.stat().st_size,
            f"files.{name}.over_reference_latency": timed.value,
            f"files.{name}.over_reference_latency_spread": [timed.low, timed.high],
        }
    for worst, part in (("bytes", "over_reference_bytes"), ("latency", "over_reference_latency")):
        found[f"largest_over_reference_{worst}"] = max(found[f"files.{name}.{part}"] for name in NETWORKS)
    found["mismatching_bytes"] = sum(found[f"files.{name}.mismatching_bytes"] for name in NETWORKS)
    return found


def tiny_inputs(name: str, data: Data) -> Tensor:
    """Real inputs where there are some; enlarged photos and random spectra where there are none."""
    if name == "dscnn":
        return data.keywords()[0][:INPUTS]
    train = _images(data.folder)[0]
    if name == "resnet8":
        return train.pixels[:INPUTS].float()
    if name == "vww":
        return nn.functional.interpolate(train.pixels[:INPUTS].float() / 255, size=96, mode="bilinear")
    return torch.randn(INPUTS, 640, generator=torch.Generator().manual_seed(0)) * 10 - 30


def mismatching(lowered: torch.fx.GraphModule, written: bytes, inputs: Tensor) -> int:
    """Bytes in which tflite-micro's outputs of the file differ from our integer reference's."""
    from tflite_micro import runtime

    graph = with_integer_ports(read(lowered))
    laid = inputs.permute(*graph.input_orders[0]).contiguous().numpy()
    grid = graph.values[graph.inputs[0]].grid
    integers = grid.quantize(torch.from_numpy(laid)).to(grid.dtype).numpy()
    ours = run(graph, [integers])[0]
    interpreter = runtime.Interpreter.from_bytes(written, arena_size=1 << 22)
    differing = 0
    for row, wanted in zip(integers, ours, strict=True):
        interpreter.set_input(row[None], 0)
        interpreter.invoke()
        differing += int((interpreter.get_output(0).reshape(-1) != wanted.reshape(-1)).sum())
    return differing


def speed(_: str, data: Data) -> Found:
    """Seconds of writing, and latencies of int8 against float files of the same network, in alternation."""
    found: Found = {}
    seconds = 1 if data.quick else 6
    task = data.cifar_task(200)
    networks = {"resnet20": pretrained(data.folder, 20), "resnet56": pretrained(data.folder, 56)}
    for name, network in {**networks, "mobilenet_v2": _mobilenet_v2()}.items():
        used = task if name in networks else Task(train=list, calibrate=_noise, score=lambda _: 0.0)
        example = used.calibration()[0][0][:1]
        model = Model(network, (example,))
        pairs = [lower(model), lower(QuantizeStatic(8, "uint8", ranges="min_max").apply(model, used))]
        writers = {"onnx": ONNX.write, "litert": LITERT.write}
        for runtime, write in writers.items():
            begin = time.monotonic()
            written = [write(each) for each in pairs]
            found[f"seconds.write_{'tflite' if runtime == 'litert' else runtime}_{name}"] = (
                time.monotonic() - begin
            ) / 2
            ratio = host.time_files(written, seconds=seconds)[1].ratio
            found[f"latency.{runtime}_{name}_int8_over_float"] = ratio.value
            found[f"latency.{runtime}_{name}_int8_over_float_spread"] = [ratio.low, ratio.high]
    return found


def _mobilenet_v2() -> nn.Module:
    """At half of its width, with random weights: for latencies, not for scores."""
    torch.manual_seed(0)
    return zoo.family("mobilenet_v2")(channels=3, outputs=10, width=0.5).eval()


def _noise() -> list[Tensor]:
    return [torch.randn(16, 3, 96, 96, generator=torch.Generator().manual_seed(0))]


W8A8 = QuantizeStatic(8)
W4A8 = replace(W8A8, weight_bits=4, rounding="gptq")
LEARNED = replace(W8A8, weight_bits=4, rounding="learned")
ROWS: dict[str, Callable[[str, Data], Found]] = {
    "memory": memory,
    "originals": originals,
    "resnet20.w8a8": cifar(20, W8A8, 500),
    "resnet56.w8a8": cifar(56, W8A8, 500),
    "mlperf_resnet8.w8a8": mlperf_resnet8(replace(W8A8, activations="int8"), 500),
    "mlperf_dscnn.w8a8": mlperf_dscnn(replace(W8A8, activations="int8")),
    "resnet20.w4a8": cifar(20, W4A8, 1000),
    "resnet56.w4a8": cifar(56, W4A8, 1000),
    "mlperf_resnet8.w4a8": mlperf_resnet8(replace(W4A8, activations="int8"), 1000),
    "files": files,
    "speed": speed,
    "resnet20.w4a8_learned": cifar(20, LEARNED, 1000),
    "resnet56.w4a8_learned": cifar(56, LEARNED, 1000),
    "resnet20.qat_w4a4": cifar(20, QuantizeTraining(weight_bits=4, activation_bits=4, epochs=EPOCHS), 500),
}


def measured(name: str) -> Row:
    """A row for the runner, which knows folders only."""
    return lambda folder, quick: ROWS[name](name, Data(folder, quick=quick))


if __name__ == "__main__":
    main(__doc__ or "", {name: measured(name) for name in ROWS}, ASKED)
