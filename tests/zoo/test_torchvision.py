"""torchvision's weights load where the architecture is the same: names and shapes as its code builds them.

torchvision is not needed: its tables and its numbering of layers are written out here. ShuffleNetV2 is with its like.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from haversack.zoo.mobilenet_v2 import MobileNetV2
from haversack.zoo.mobilenet_v3 import MobileNetV3
from haversack.zoo.squeezenet import SqueezeNet

Named = Iterator[tuple[str, tuple[int, ...]]]


def convolution(path: str, *shape: int) -> Named:
    """A convolution with a bias."""
    yield f"{path}.weight", shape
    yield f"{path}.bias", shape[:1]


def norm(path: str, channels: int) -> Named:
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"{path}.{name}", (channels,)
    yield f"{path}.num_batches_tracked", ()


def normed(path: str, *shape: int) -> Named:
    """torchvision's Conv2dNormActivation: a convolution without bias at 0 and its batch norm at 1."""
    yield f"{path}.0.weight", shape
    yield from norm(f"{path}.1", shape[0])


def mobilenet_v2() -> Named:
    yield from normed("features.0", 32, 3, 3, 3)
    inputs, place = 32, 1
    for t, c, n in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(n):
            path, inner, at = f"features.{place}.conv", inputs * t, 0
            if t != 1:
                yield from normed(f"{path}.0", inner, inputs, 1, 1)
                at = 1
            yield from normed(f"{path}.{at}", inner, 1, 3, 3)
            yield f"{path}.{at + 1}.weight", (c, inner, 1, 1)
            yield from norm(f"{path}.{at + 2}", c)
            inputs, place = c, place + 1
    yield from normed("features.18", 1280, 320, 1, 1)
    yield from convolution("classifier.1", 1000, 1280)


# Kernel, expanded channels, channels, and whether squeeze-and-excite.
LARGE = (
    *((3, 16, 16, 0), (3, 64, 24, 0), (3, 72, 24, 0), (5, 72, 40, 1), (5, 120, 40, 1), (5, 120, 40, 1)),
    *((3, 240, 80, 0), (3, 200, 80, 0), (3, 184, 80, 0), (3, 184, 80, 0), (3, 480, 112, 1), (3, 672, 112, 1)),
    *((5, 672, 160, 1), (5, 960, 160, 1), (5, 960, 160, 1)),
)
SMALL = (
    *((3, 16, 16, 1), (3, 72, 24, 0), (3, 88, 24, 0), (5, 96, 40, 1), (5, 240, 40, 1), (5, 240, 40, 1)),
    *((5, 120, 48, 1), (5, 144, 48, 1), (5, 288, 96, 1), (5, 576, 96, 1), (5, 576, 96, 1)),
)
# What torchvision's _make_divisible(expanded // 4, 8) gives.
SQUEEZED = {16: 8, 72: 24, 96: 24, 120: 32, 144: 40, 240: 64, 288: 72, 480: 120, 576: 144, 672: 168, 960: 240}


def mobilenet_v3(rows: tuple[tuple[int, int, int, int], ...], hidden: int) -> Named:
    yield from normed("features.0", 16, 3, 3, 3)
    inputs = 16
    for place, (kernel, expanded, outputs, excites) in enumerate(rows, start=1):
        path, at = f"features.{place}.block", 0
        if expanded != inputs:
            yield from normed(f"{path}.0", expanded, inputs, 1, 1)
            at = 1
        yield from normed(f"{path}.{at}", expanded, 1, kernel, kernel)
        if excites:
            at += 1
            squeezed = SQUEEZED[expanded]
            yield from convolution(f"{path}.{at}.fc1", squeezed, expanded, 1, 1)
            yield from convolution(f"{path}.{at}.fc2", expanded, squeezed, 1, 1)
        yield from normed(f"{path}.{at + 1}", outputs, expanded, 1, 1)
        inputs = outputs
    yield from normed(f"features.{len(rows) + 1}", 6 * inputs, inputs, 1, 1)
    yield from convolution("classifier.0", hidden, 6 * inputs)
    yield from convolution("classifier.3", 1000, hidden)


def squeezenet() -> Named:
    yield from convolution("features.0", 64, 3, 3, 3)
    inputs = 64
    fires = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128), 9: (48, 192), 10: (48, 192), 11: (64, 256)}
    for place, (squeezed, expanded) in (fires | {12: (64, 256)}).items():
        yield from convolution(f"features.{place}.squeeze", squeezed, inputs, 1, 1)
        yield from convolution(f"features.{place}.expand1x1", expanded, squeezed, 1, 1)
        yield from convolution(f"features.{place}.expand3x3", expanded, squeezed, 3, 3)
        inputs = 2 * expanded
    yield from convolution("classifier.1", 1000, 512, 1, 1)


CASES = {
    "mobilenet_v2": (MobileNetV2, dict(mobilenet_v2()), 3_504_872),
    "mobilenet_v3_large": (lambda: MobileNetV3(large=True), dict(mobilenet_v3(LARGE, 1280)), 5_483_032),
    "mobilenet_v3_small": (MobileNetV3, dict(mobilenet_v3(SMALL, 1024)), 2_542_856),
    "squeezenet1_1": (SqueezeNet, dict(squeezenet()), 1_235_496),
}


@pytest.mark.parametrize("name", CASES)
def test_torchvisions_weights_load(name: str) -> None:
    build, theirs, parameters = CASES[name]
    with torch.device("meta"):
        network: nn.Module = build()
    assert {path: tuple(each.shape) for path, each in network.state_dict().items()} == theirs
    assert sum(each.numel() for each in network.parameters()) == parameters


@pytest.mark.parametrize("large", [False, True])
def test_batch_norms_of_mobilenet_v3_add_what_torchvisions_do(large) -> None:
    with torch.device("meta"):
        norms = [each for each in MobileNetV3(large=large).modules() if isinstance(each, nn.BatchNorm2d)]
    assert {each.eps for each in norms} == {0.001}
