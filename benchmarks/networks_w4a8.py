"""Weights of 4 bits and values of 8 where layers are depthwise: trained networks beside themselves in W8A8.

A MobileNetV2 and an EfficientNet-Lite0 are trained here on CIFAR-10 (`compact_cifar.py`) and scored on its test images,
which are seen once by each file; MLPerf Tiny's DS-CNN comes trained, and is scored on those of its evaluation inputs
that calibrate nothing. MLPerf Tiny's network for visual wake words comes without labelled images: `score` is the share
of CIFAR-10's test images, enlarged, of which it says what the float network says, and `lost` the rest.

Depthwise layers hold few weights and lose most, as do the first layer and the last: they keep 8 bits where the file
stays within the bytes that are asked for, and all layers have 4 where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from cifar10 import images
from compact_cifar import HELD_BACK, NETWORKS, SIZE, enlarged
from mlperf_tiny import dscnn, vww
from networks_minilm import Made
from quantization import Data
from torch import Tensor, fx, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import HaversackError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic

RATIO = 0.55
CALIBRATION, BATCH = 1_000, 100
KEYWORDS, WAKE_PIXELS, WAKE_TESTED = 100, 96, 2_000


@dataclass(frozen=True)
class Case:
    """A trained network, inputs that calibrate, inputs that score, and their labels.

    Without labels right is what the float network says.
    """

    network: nn.Module
    calibration: Tensor
    tested: Tensor
    labels: Tensor | None
    prepared: Callable[[Tensor], Tensor]

    def score(self, predict: Callable[[Tensor], Tensor]) -> float:
        """The share of what is tested that `predict` tells right."""
        said = [predict(self.prepared(some)).argmax(1) for some in self.tested.split(BATCH)]
        return float((torch.cat(said) == self.right).float().mean())

    @cached_property
    def right(self) -> Tensor:
        """What is right."""
        if self.labels is not None:
            return self.labels
        with torch.no_grad():
            return torch.cat([self.network(self.prepared(some)).argmax(1) for some in self.tested.split(BATCH)])

    @property
    def task(self) -> Task:
        """Calibration alone."""
        inputs = self.calibration
        return Task(train=list, calibrate=lambda: [self.prepared(some) for some in inputs.split(BATCH)], score=_none)

    @property
    def model(self) -> Model:
        """The network with an example."""
        return Model(self.network, (self.prepared(self.calibration[:1]),))


def _none(_: object) -> float:
    return 0.0


def run(data: Path, *, name: str, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` trains and calibrates on little, and scores 500 inputs."""
    case, told = CASES[name](data, name, quick)
    eight = QuantizeStatic(find_device("host").weight_bits)
    whole = ONNX.write(lower(case.model))
    eights, fours = list[fx.GraphModule](), list[fx.GraphModule]()
    plain = Made.by(lambda: _content(eight, case, eights))
    step = mixed(case, len(plain.content))
    small = Made.by(lambda: _content(step, case, fours))
    scores = [case.score(host.load(each, 1)) for each in (whole, plain.content, small.content)]
    figures = {
        "float_score": scores[0],
        "int8_score": scores[1],
        "score": scores[2],
        "lost": scores[0] - scores[2],
        "flash_bytes": len(small.content),
        "int8_flash_bytes": len(plain.content),
        "ratio_bytes": len(small.content) / len(plain.content),
        "seconds": small.seconds,
        "peak_mb": small.peak_bytes / 1e6,
        "int8_seconds": plain.seconds,
        "int8_peak_mb": plain.peak_bytes / 1e6,
        "layers_in_8_bits": len(step.layer_bits),
        **told,
        **_litert(case, eights[0], fours[0]),
    }
    return {f"w4a8_{name}.{key}": value for key, value in figures.items()}


def mixed(case: Case, int8_bytes: int) -> QuantizeStatic:
    """Four bits, but for layers that lose most where the file may hold them.

    How large it gets does not depend on how weights are rounded.
    """
    four = QuantizeStatic(4, rounding="gptq")
    step = replace(four, layer_bits=tuple(f"{path}=8" for path in hard_layers(case.network)))
    size = len(ONNX.write(lower(step.skeleton().apply(case.model, case.task))))
    return step if size <= RATIO * int8_bytes else four


def hard_layers(network: nn.Module) -> list[str]:
    """The paths of the first layer, the last, and the depthwise ones."""
    layers = {path: each for path, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.Linear)}
    first, last = next(iter(layers)), next(reversed(layers))
    deep = (path for path, each in layers.items() if isinstance(each, nn.Conv2d) and each.groups > 1)
    return list(dict.fromkeys([first, *deep, last]))


def _content(step: QuantizeStatic, case: Case, lowered: list[fx.GraphModule]) -> bytes:
    """The ONNX file; its graph is put into `lowered`."""
    lowered.append(lower(step.apply(case.model, case.task)))
    return ONNX.write(lowered[-1])


def _litert(case: Case, eight: fx.GraphModule, four: fx.GraphModule) -> dict[str, object]:
    """The same for LiteRT, or what it says against it."""
    try:
        files = [LITERT.write(each) for each in (eight, four)]
        score = case.score(host.load(files[1], 1))
    except HaversackError as error:
        return {"litert_says": str(error)}
    sizes = [len(each) for each in files]
    return {"tflite_score": score, "tflite_flash_bytes": sizes[1], "tflite_ratio_bytes": sizes[1] / sizes[0]}


def of_cifar(data: Path, name: str, quick: bool) -> tuple[Case, dict[str, object]]:  # noqa: FBT001 - as the others
    """A network trained on CIFAR-10, and what its training took."""
    trained, (train, test) = NETWORKS[name](data, quick=quick), images(data)
    shown = test.first(500) if quick else test
    some = torch.randperm(len(train.labels) - HELD_BACK, generator=torch.Generator().manual_seed(0))
    count = BATCH if quick else CALIBRATION
    case = Case(trained.network, train.inputs(some[:count]), shown.inputs(slice(None)), shown.labels, enlarged)
    return case, {"epochs": trained.epochs, "minutes": trained.minutes, "pixels": SIZE}


def of_keywords(data: Path, name: str, quick: bool) -> tuple[Case, dict[str, object]]:  # noqa: ARG001, FBT001
    """MLPerf Tiny's DS-CNN; 100 of its evaluation inputs calibrate, without their labels, and 900 score."""
    x, y = Data(data).keywords()
    count = 500 if quick else len(x)
    case = Case(dscnn(data / "mlperf-tiny"), x[:KEYWORDS], x[KEYWORDS:count], y[KEYWORDS:count], lambda some: some)
    return case, {"inputs": count - KEYWORDS}


def of_wake_words(data: Path, name: str, quick: bool) -> tuple[Case, dict[str, object]]:  # noqa: ARG001, FBT001
    """MLPerf Tiny's network for visual wake words, on pictures that nobody labelled for it."""
    train, test = images(data)
    count = 500 if quick else WAKE_TESTED
    case = Case(vww(data / "mlperf-tiny"), train.pixels[:CALIBRATION], test.pixels[:count], None, _for_wake_words)
    return case, {"inputs": count}


def _for_wake_words(pixels: Tensor) -> Tensor:
    return F.interpolate(pixels.float() / 255, size=WAKE_PIXELS, mode="bilinear")


CASES = {
    "mobilenetv2": lambda data, _, quick: of_cifar(data, "mobilenet_v2", quick),
    "efficientnet_lite": of_cifar,
    "ds_cnn": of_keywords,
    "vww": of_wake_words,
}
