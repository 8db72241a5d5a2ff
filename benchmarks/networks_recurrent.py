"""A phone's motion in windows of a second, read by one LSTM or GRU and a linear layer: in 8 bits, and at half its cost.

Subjects 1 to 14 train and calibrate; 15 to 18 choose after which epoch training ends; 19 to 23, whom nothing saw
before, are scored once with each file. For ONNX Runtime values are rounded as they come; for LiteRT weights alone are
integers. With 96 units instead of 128 the int8 file of the LSTM was 0.28005 of the float one: what does not shrink
weighs more there.
"""

from __future__ import annotations

import copy
import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from har_phone import CLASSES, LENGTH, Epoch, Windows
from torch import Tensor, nn
from torch.nn import functional as F

from haversack.device import find_device
from haversack.errors import HaversackError
from haversack.graph.inference import lower
from haversack.model import Model
from haversack.runtimes import agreement, host
from haversack.runtimes.onnx import ONNX
from haversack.runtimes.tflite import LITERT
from haversack.task import Task
from haversack.techniques.prune_channels import PruneChannels
from haversack.techniques.quantize_dynamic import QuantizeDynamic
from haversack.techniques.quantize_weights import QuantizeWeights
from haversack.training.machine import seeded

LEARNING, CHOOSING, REPORTING = range(1, 15), range(15, 19), range(19, 24)
UNITS, EPOCHS, RATE = 128, 12, 2e-3
KINDS = {"lstm": nn.LSTM, "gru": nn.GRU}
HALF = 0.5
_COMPARED = 256
"""Windows on which a file for LiteRT is held against the network that it was written from."""


class Listener(nn.Module):
    """One recurrent layer over the window, and a linear layer on its last output."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.layer, self.head = kind(6, UNITS, batch_first=True), nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of windows (windows, 6, LENGTH)."""
        return self.head(self.layer(x.transpose(1, 2))[0][:, -1])


@dataclass(frozen=True)
class People:
    """The windows of those who train, choose and report."""

    learning: Windows
    choosing: Windows
    reporting: Windows

    @classmethod
    def of(cls, data: Path, *, quick: bool) -> People:
        """All of them; `quick` takes 960 windows of those who train."""
        learning = Windows.of(data, LEARNING)
        learning = learning.first(960) if quick else learning
        return cls(learning, *(Windows.of(data, each, like=learning) for each in (CHOOSING, REPORTING)))

    @property
    def task(self) -> Task:
        """Who chooses scores."""
        some = torch.randperm(len(self.learning), generator=torch.Generator().manual_seed(0))[:500]
        return Task(
            train=lambda: Epoch(self.learning),
            calibrate=lambda: self.learning.inputs(some).split(100),
            score=self.choosing.accuracy,
        )


def trained(kind: str, people: People, epochs: int) -> nn.Module:
    """The network as it was after the epoch with which those who choose are told best."""
    with seeded(0):
        network = Listener(KINDS[kind])
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-3)
        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * len(Epoch(people.learning)))
        best, kept = 0.0, copy.deepcopy(network)
        for _ in range(epochs):
            network.train()
            for inputs, labels in Epoch(people.learning):
                optimizer.zero_grad()
                F.cross_entropy(network(inputs), labels, label_smoothing=0.1).backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                rates.step()
            score = people.choosing.accuracy(network.eval())
            if score > best:
                best, kept = score, copy.deepcopy(network)
    return kept.eval()


def run(data: Path, *, kind: str, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` trains for an epoch on 960 windows and times for a second."""
    people = People.of(data, quick=quick)
    task, whole = people.task, Model(trained(kind, people, 1 if quick else EPOCHS), (torch.zeros(1, 6, LENGTH),))
    small = _in_8_bits(whole, task)
    files = [ONNX.write(lower(model)) for model in (whole, small)]
    half = PruneChannels(HALF, imitate=2, epochs=1 if quick else 4).apply(whole, task)
    narrow = ONNX.write(lower(_in_8_bits(half, task)))
    inputs = [people.learning.inputs(slice(1)).numpy()]
    timed = host.time_files([*files, narrow], seconds=1 if quick else 30, inputs=inputs)
    scores = [people.reporting.accuracy(host.load(file, 1)) for file in (*files, narrow)]
    figures = {
        "float_score": scores[0],
        "score": scores[1],
        "lost": scores[0] - scores[1],
        "float_flash_bytes": len(files[0]),
        "flash_bytes": len(files[1]),
        "ratio_bytes": len(files[1]) / len(files[0]),
        "latency_ratio": _ratio(timed[1], timed[0]),
        "pruned_score": scores[2],
        "pruned_ratio_bytes": len(narrow) / len(files[0]),
        "pruned_latency_ratio": _ratio(timed[2], timed[0]),
        **_litert(whole, people),
    }
    return {f"{kind}.{name}": value for name, value in figures.items()}


def _in_8_bits(model: Model, task: Task) -> Model:
    return QuantizeDynamic(find_device("host").weight_bits).apply(model, task)


def _ratio(file: host.Timing, other: host.Timing) -> float:
    """The time of one file over another's in the same round: the median."""
    return statistics.median(one / two for (one, _), (two, _) in zip(file.rounds, other.rounds, strict=True))


def _litert(whole: Model, people: People) -> dict[str, object]:
    """Whether the file with 8-bit weights for LiteRT computes what its network does, its size and its score."""
    small = QuantizeWeights(8).apply(whole, people.task)
    lowered = lower(small)
    try:
        content = LITERT.write(lowered)
        runs = agreement.in_torch(lowered), host.load(content, 1)
        batches = [(each,) for each in people.learning.inputs(slice(_COMPARED)).split(64)]
        parity = agreement.compare(*(list(agreement.outputs(each, batches)) for each in runs))
    except HaversackError as error:
        return {"works_litert": 0, "litert_says": str(error)}
    return {
        "works_litert": int(agreement.Gate(quantized=True).lets(parity)),
        "litert_flash_bytes": len(content),
        "litert_score": people.reporting.accuracy(runs[1]),
    }
