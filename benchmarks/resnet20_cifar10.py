"""The main job on real data: the pretrained ResNet-20 to 200 kB of ONNX at less than half the float latency.

    python benchmarks/resnet20_cifar10.py --data ../shared/data --json FILE [--quick] [--out DIR]

The test images are read twice, at the end: once for the result, once for int8 alone. Everything before is decided on
training images: 500 calibrate, 5,000 are held back to score candidates, the others train. The
pretrained network had learned from all of them, which flatters the candidates that change it least.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from cifar10 import Images, images
from figures import Measured, commit, kept, write
from resnet20_task import network, task
from rows import Asked, show

from haversack.cli.terminal import Bars
from haversack.device import find_device
from haversack.errors import HaversackError
from haversack.limits import Budget
from haversack.packing import Packed, Settings, apply, pack
from haversack.progress import shown_by
from haversack.recipe import Recipe
from haversack.runtimes import host
from haversack.techniques.quantize_static import QuantizeStatic

ASKED = Asked(
    at_least={"score": 0.90, "score_int8_only": 0.9165},
    at_most={"flash_bytes": 200_000, "latency_ratio": 0.45, "minutes": 25},
)
ROW = "resnet20_cifar10"
BUDGET = Budget(flash_bytes=200_000, latency_ratio=0.45)
INT8 = Recipe((QuantizeStatic(weight_bits=8),))
EPOCHS = 6
QUICK = {"learn": 4_000}


def main() -> None:
    """Packs, scores on the test images, prints a table and writes JSON."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, required=True, help="folder with cifar10/ and cifar10-resnets/")
    words.add_argument("--json", type=Path, required=True, help="where to write the figures")
    words.add_argument("--out", type=Path, help="keep the packed network here")
    words.add_argument("--quick", action="store_true", help="one epoch on 4,000 images: a smoke test, not a result")
    asked = words.parse_args()
    torch.set_num_threads(2)
    code, rows = commit(), kept(asked.json, [ROW], quick=asked.quick)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as cache, Bars() as bars, shown_by(bars):
        settings = Settings(out=asked.out, cache=Path(cache), epochs=1 if asked.quick else EPOCHS)
        job = network(asked.data), task(asked.data, **QUICK if asked.quick else {}), find_device("host")
        packed = pack(*job, BUDGET, settings)
        int8_only = apply(INT8, *job, replace(settings, out=None))  # measured before: read back
        found = figures(packed, int8_only, images(asked.data)[1])
    found["minutes"] = (time.monotonic() - started) / 60
    found["epochs"] = settings.epochs
    print(packed.report)
    rows[ROW] = Measured.here(found, quick=asked.quick, commit=code)
    show("ResNet-20, CIFAR-10", rows, ASKED)
    write(asked.json, rows)


def figures(packed: Packed, int8_only: Packed, test: Images) -> dict[str, object]:
    """The keys of the benchmark, read off the files."""
    measured = packed.artifact.measurement
    ratio = measured.latency_ratio or measured.flash_bytes
    return {
        "score": test.accuracy(host.load(packed.artifact.files["model.onnx"])),
        "score_int8_only": test.accuracy(host.load(int8_only.artifact.files["model.onnx"])),
        "flash_bytes": measured.flash_bytes.value,
        "flash_bytes_int8_only": int8_only.artifact.flash_bytes,
        "latency_ratio": ratio.value,
        "latency_ratio_spread": [ratio.low, ratio.high],
        "recipe": packed.artifact.recipe.to_toml(),
    }


if __name__ == "__main__":
    try:
        main()
    except HaversackError as error:
        raise SystemExit(f"resnet20_cifar10: {error}") from None
