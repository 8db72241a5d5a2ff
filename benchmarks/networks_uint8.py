"""Raw bytes into int8 files: ResNet-20 on CIFAR-10, and a MobileNetV2 that is trained here for a minute, on bytes too.

Both have a mean and a deviation for each channel, and first layers that pad with zeros, for which no byte stands: so
the normalization stays one operation, on integers. Each file is held against one that takes normalized float inputs, by
score, and against one of a network that normalizes for itself, by the nodes that ONNX Runtime runs. The MobileNetV2 is
no network to be proud of: it shows that files agree. Calibration and training are on training images alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from cifar10 import DEVIATION, MEAN, Images, images, pretrained
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.graph.inference import lower
from haversack.measurement import chance, share_of
from haversack.model import Model
from haversack.packing.check import checked_model
from haversack.preparing import Prepare
from haversack.runtimes import host, named
from haversack.task import Task
from haversack.techniques.quantize_static import QuantizeStatic
from haversack.zoo.mobilenet_v2 import MobileNetV2

PREPARE = Prepare(mean=tuple(MEAN.flatten().tolist()), std=tuple(DEVIATION.flatten().tolist()))
CALIBRATION, BATCH = 500, 500
LEARNED, EPOCHS = 6_000, 2
TESTED, QUICK_TESTED = 2_000, 500
FAR = 1
"""So many standard errors of one score may two scores of the same images be apart."""


class Normalizing(nn.Module):
    """A network that takes bytes and normalizes them by itself, as one writes it in PyTorch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", MEAN.clone())
        self.register_buffer("deviation", DEVIATION.clone())

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives for the normalized image."""
        y: Tensor = self.network((x.float() / 255 - self.mean) / self.deviation)
        return y


@dataclass(frozen=True)
class Data:
    """Images that calibrate and train, and those that report."""

    train: Images
    test: Images

    def accuracy(self, predict: Callable[[Tensor], Tensor], inputs: Callable[[Tensor], Tensor]) -> float:
        """The share of the test images that are told right, of what `inputs` makes of their bytes."""
        right = sum(
            int((predict(inputs(some)).argmax(1) == labels).sum())
            for some, labels in zip(self.test.pixels.split(BATCH), self.test.labels.split(BATCH), strict=True)
        )
        return right / len(self.test.labels)

    def task(self, inputs: Callable[[Tensor], Tensor], prepare: Prepare | None = None) -> Task:
        """Calibration on training images."""
        some = torch.randperm(len(self.train.labels), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
        pixels = self.train.pixels[some]
        return Task(list, lambda: list(inputs(pixels).split(100)), lambda _: 0.0, prepare=prepare)


def mobilenet(train: Images, *, quick: bool) -> nn.Module:
    """A narrow MobileNetV2 after two epochs, seeds fixed."""
    torch.manual_seed(0)
    network = MobileNetV2(outputs=10, width=0.25, head=320, downsampling=8, dropout=0.0).train()
    optimizer, count = torch.optim.Adam(network.parameters(), 3e-3), 512 if quick else LEARNED
    for _ in range(1 if quick else EPOCHS):
        for some in torch.randperm(count).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(normalized(train.pixels[some])), train.labels[some]).backward()
            optimizer.step()
    return network.eval()


def normalized(pixels: Tensor) -> Tensor:
    """As torchvision does."""
    return (pixels.float() / 255 - MEAN) / DEVIATION


def rounded(model: Model, task: Task) -> Model:
    """The model in 8 bits, for this machine."""
    return QuantizeStatic(find_device("host").weight_bits, "uint8").apply(model, task)


def figures(network: nn.Module, data: Data) -> dict[str, float]:
    """Scores of the files of bytes and of floats, and nodes as ONNX Runtime runs them."""
    of_bytes, of_floats = data.task(bytes_alone, PREPARE), data.task(normalized)
    models = {
        "": rounded(checked_model(network, of_bytes), of_bytes),
        "_float_input": rounded(checked_model(network, of_floats), of_floats),
        "_separate": rounded(checked_model(Normalizing(network), data.task(bytes_alone)), data.task(bytes_alone)),
    }
    runtimes = {name: named(name) for name in ("onnx", "litert")}
    onnx_runtime, litert = runtimes["onnx"], runtimes["litert"]
    assert onnx_runtime is not None
    files = {name: onnx_runtime.write(lower(model)) for name, model in models.items()}
    found = {f"nodes{name}": float(nodes(file)) for name, file in files.items()}
    found["score"] = data.accuracy(host.load(files[""], 1), bytes_alone)
    found["score_float_input"] = data.accuracy(host.load(files["_float_input"], 1), normalized)
    found["takes_bytes"] = float(input_type(files[""]) == onnx.TensorProto.UINT8)
    if litert is not None and litert.is_installed and litert.orders is not None:
        lowered = lower(models[""])
        predict = host.load(litert.write(lowered), 1, orders=litert.orders(lowered))
        found["tflite_score"] = data.accuracy(predict, bytes_alone)
    return found


def bytes_alone(pixels: Tensor) -> Tensor:
    """The pixels as they are."""
    return pixels.clone()


def nodes(file: bytes) -> int:
    """How many nodes ONNX Runtime runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(file)
        return sum(host.contents(path, 1).as_run.values())


def input_type(file: bytes) -> int:
    """What numbers a file takes."""
    return int(onnx.load_from_string(file).graph.input[0].type.tensor_type.elem_type)


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The figures of both networks, and whether their files take bytes, score as with floats, and have fewer nodes."""
    train, test = images(data)
    shown = Data(train, test.first(QUICK_TESTED if quick else TESTED))
    found = {f"uint8.{name}": value for name, value in figures(pretrained(data, 20), shown).items()}
    trained = figures(mobilenet(train, quick=quick), shown)
    found |= {f"uint8.mobilenet_{name}": value for name, value in trained.items()}
    works = all(works_in(found, f"uint8.{name}", len(shown.test.labels)) for name in ("", "mobilenet_"))
    return {**found, "uint8.works": int(works)}


def works_in(found: dict[str, float], start: str, images: int) -> bool:
    """Whether one network's figures are what they should be."""
    scores = [found[f"{start}{name}"] for name in ("score", "tflite_score") if f"{start}{name}" in found]
    floats = share_of(images, found[f"{start}score_float_input"])
    near = all(abs(score - floats.value) <= FAR * chance(floats) for score in scores)
    return bool(near and found[f"{start}takes_bytes"] and found[f"{start}nodes"] < found[f"{start}nodes_separate"])
