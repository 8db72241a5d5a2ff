"""Factors: a VGG and the MLPerf Tiny autoencoder with low-rank layers, only where those are measured faster.

The VGG is trained here first (`vgg.py`). Each way of factorizing then gets the same network at the same share of the
multiply-accumulates, without and with a little training. The autoencoder comes without data: its inputs are made from
the statistics in its batch norms (as in ZeroQ, Cai et al. 2020) so that it reconstructs them; some calibrate, others,
made from another seed, report. So its errors are of a stand-in, not of machine sounds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cifar10 import Images, images
from mlperf_tiny import Autoencoder, autoencoder
from resnet20_task import task
from torch import Tensor
from torch.nn import functional as F
from vgg import trained

from haversack.errors import HaversackError
from haversack.graph.cost import cost
from haversack.graph.inference import lower
from haversack.graph.trace import trace
from haversack.model import Model
from haversack.packing.candidates import files_on
from haversack.runtimes import host
from haversack.runtimes.onnx import ONNX
from haversack.task import Task
from haversack.techniques.factorize import Factorize

VGG = Factorize(0.6, "latency", "auto", multiple=16, epochs=1)
AUTOENCODER = Factorize(0.75, "latency", "svd", multiple=16, epochs=0)
WAYS = ("svd", "spatial", "tucker", "cp")
SAME_COST = 0.5
QUICK = {"learn": 1_280}
# What each way is trained on, and what it is scored on; the chosen network gets all of both.
SOME = 10_000
REPORTED = 2_500


@dataclass(frozen=True)
class Compared:
    """Two networks as ONNX files, in alternation on one thread."""

    ratio: float
    low: float
    high: float
    flash_ratio: float
    before: bytes
    after: bytes


def run(data: Path, *, quick: bool, part: str) -> dict[str, object]:
    """Latency over the original's and what it costs: of `vgg`, of each of its `ways`, or of `autoencoder`."""
    started = time.monotonic()
    if part == "autoencoder":
        found = _autoencoder(data, 200 if quick else 2_000)
    else:
        model = Model(trained(data, quick=quick), (torch.zeros(1, 3, 32, 32),), target=files_on("host"))
        test = images(data)[1]
        found = _ways(model, data, test, quick=quick) if part == "ways" else _vgg(model, data, test, quick=quick)
    return {**found, f"factorize.{part}_seconds": time.monotonic() - started}


def _ways(model: Model, data: Path, test: Images, *, quick: bool) -> dict[str, object]:
    some = task(data, learn=QUICK["learn"] if quick else SOME)
    found = {way: _way(model, some, test.first(REPORTED), way) for way in WAYS}
    before = {"factorize.ways_score_before": test.first(REPORTED).accuracy(model.module)}
    return before | {f"factorize.{way}.{name}": value for way, each in found.items() for name, value in each.items()}


def _vgg(model: Model, data: Path, test: Images, *, quick: bool) -> dict[str, object]:
    test = test.first(REPORTED) if quick else test
    small = VGG.apply(model, task(data, **QUICK if quick else {}))
    timed = _compared(model, small)
    before, after = (test.accuracy(host.load(file)) for file in (timed.before, timed.after))
    return {
        "factorize.vgg_score_before": before,
        "factorize.vgg_score": after,
        "factorize.vgg_drop": before - after,
        **_figures("vgg", timed),
        "factorize.vgg_macs_ratio": _macs(small) / _macs(model),
        "factorize.vgg_layers": [f"{change.path}: {change.layers}" for change in small.edits.changes],
    }


def _way(model: Model, ours: Task, test: Images, way: str) -> dict[str, object]:
    """One way at the same share of the multiply-accumulates: its file's bytes, latency and score, trained for an epoch.

    Untrained, also how far the outputs are away. A way that cannot go so far says why.
    """
    step = Factorize(SAME_COST, "macs", way, multiple=16, epochs=0)
    try:
        untrained = step.apply(model, ours)
    except HaversackError as error:
        return {"refused": error.what}
    small = replace(step, epochs=1).apply(model, ours)
    timed = _compared(model, small)
    return {
        "output_error": _away(model, untrained, test.inputs(slice(0, 500))),
        "score_untrained": test.accuracy(untrained.module),
        "score": test.accuracy(host.load(timed.after)),
        "bytes": len(timed.after),
        "flash_ratio": timed.flash_ratio,
        "macs_ratio": _macs(small) / _macs(model),
        "latency_ratio": timed.ratio,
        "latency_ratio_spread": [timed.low, timed.high],
    }


def _autoencoder(data: Path, count: int) -> dict[str, object]:
    network = autoencoder(data / "mlperf-tiny")
    some, others = (like_training(network, count, seed) for seed in (0, 1))
    model = Model(network, (some[:1],), target=files_on("host"))
    ours = Task(
        train=lambda: [(batch,) for batch in some[torch.randperm(len(some))].split(50)],
        calibrate=lambda: list(some.split(250)),
        score=lambda predict: -float(F.mse_loss(predict(some), some)),
        kind="reconstruction",
    )
    small = AUTOENCODER.apply(model, ours)
    timed = _compared(model, small)
    before, after = (float(F.mse_loss(host.load(file)(others), others)) for file in (timed.before, timed.after))
    return {
        **_figures("autoencoder", timed),
        "factorize.autoencoder_error_before": before,
        "factorize.autoencoder_error_ratio": after / before,
        "factorize.autoencoder_layers": [f"{change.path}: {change.layers}" for change in small.edits.changes],
    }


def like_training(network: Autoencoder, count: int, seed: int, steps: int = 200) -> Tensor:
    """Inputs (count, 640) on which the batch norms see what they saw in training, and that are reconstructed."""
    random = torch.Generator().manual_seed(seed)
    x = (torch.randn(count, 640, generator=random) * 5 - 20).requires_grad_()
    optimizer = torch.optim.Adam([x], 0.5)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / steps)
        optimizer.zero_grad()
        _unlike_training(network, x).backward()
        optimizer.step()
    network.zero_grad(set_to_none=True)
    return x.detach()


def _unlike_training(network: Autoencoder, x: Tensor) -> Tensor:
    """How far the batch norms' inputs are from their statistics, and a little of the reconstruction error."""
    value, away = x, torch.zeros(())
    for layer, norm in zip(network.layers, network.norms, strict=True):
        found = layer(value)
        spread = norm.running_var
        away = away + ((found.mean(0) - norm.running_mean) ** 2 / spread).mean()
        away = away + (found.var(0).clamp_min(1e-9) / spread).log().pow(2).mean()
        value = F.relu(norm(found))
    return away + 0.1 * F.mse_loss(network.last(value), x)


def _compared(model: Model, small: Model) -> Compared:
    before, after = (ONNX.write(lower(each)) for each in (model, small))
    ratio = host.time_files([before, after], threads=1, seconds=6.0)[1].ratio
    low, high = (ratio.value if edge is None else edge for edge in (ratio.low, ratio.high))
    return Compared(ratio.value, low, high, len(after) / len(before), before, after)


def _figures(name: str, timed: Compared) -> dict[str, object]:
    return {
        f"factorize.{name}_latency_ratio": timed.ratio,
        f"factorize.{name}_latency_ratio_spread": [timed.low, timed.high],
        f"factorize.{name}_flash_ratio": timed.flash_ratio,
    }


@torch.no_grad()
def _away(model: Model, small: Model, inputs: Tensor) -> float:
    """The squared error of the class scores over their spread."""
    wanted = model.module(inputs)
    return float((small.module(inputs) - wanted).pow(2).mean() / wanted.var())


def _macs(model: Model) -> int:
    return cost(trace(model.module, model.example)).macs
