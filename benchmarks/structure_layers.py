"""ResNet-56 without the blocks that matter least, after one epoch."""

from __future__ import annotations

import time
from pathlib import Path

from cifar10 import Block, images
from resnet20_task import network, task

from haversack.device import find_device
from haversack.model import Swap
from haversack.packing import Settings, apply
from haversack.recipe import Recipe
from haversack.runtimes import host
from haversack.techniques.prune_layers import PruneLayers

# Each of the 25 blocks that keep their input's shape does 3.7 % of the multiply-accumulates.
STEP = PruneLayers(keep=0.86, of="macs", epochs=1, learning_rate=0.005)
QUICK = {"learn": 1_280}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """How many of the 27 blocks go, and what the exported file scores on the test images."""
    started, whole = time.monotonic(), network(data, 56)
    packed = apply(Recipe((STEP,)), whole, task(data, **QUICK if quick else {}), find_device("host"), Settings())
    gone = [change.path for change in packed.model.edits.changes if isinstance(change, Swap)]
    ratio = packed.artifact.measurement.latency_ratio
    return {
        "resnet56.layers_removed": sum(isinstance(whole.get_submodule(path), Block) for path in gone),
        "resnet56.layers_score": images(data)[1].accuracy(host.load(packed.artifact.files["model.onnx"])),
        "resnet56.layers_gone": gone,
        "resnet56.layers_latency_ratio": ratio.value if ratio else None,
        "resnet56.layers_recipe": packed.artifact.recipe.to_toml(),
        "resnet56.layers_seconds": time.monotonic() - started,
    }
