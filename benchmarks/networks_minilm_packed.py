"""A sentence encoder packed into 12 MB and 0.22 of its time: what goes and what is rounded is planned, and then taught.

`pack` is given the limits, two techniques to choose from and the score on the development pairs. Where it trains, the
original teaches, on the sentences of the training pairs, and people say how alike these are. The test pairs are seen
once by the float network and once by the file that was chosen.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from minilm import LENGTH, Pairs, Tokenizer, network
from torch import Tensor
from torch.nn import functional as F

from haversack.device import find_device
from haversack.limits import Budget
from haversack.packing import Settings, pack
from haversack.task import Task

LIMITS = Budget(flash_bytes=12_000_000, latency_ratio=0.22)
TRIED = ("prune_layers", "quantize_dynamic")
EPOCHS, PAIRS_A_BATCH, SEEN = 2, 32, 128
TOLD = 5.0
"""What people say counts so much in the loss; this and the epochs were chosen on the development pairs."""
STEP, MOST = 4, 5.0
"""Sentences are cut to the next multiple of so many tokens; and what people say goes from 0 to so much."""
JUDGED_BY = 300
"""Development pairs that choose, spread over all."""


@dataclass(frozen=True)
class Lesson:
    """Training pairs in batches of sentences of about one length, so that little of them is padding."""

    pairs: Pairs

    def __call__(self) -> list[tuple[Tensor, Tensor]]:
        """One epoch in random order: the left sentences and then the right ones, and how alike they are."""
        batches = list(self._batches())
        return [batches[place] for place in torch.randperm(len(batches)).tolist()]

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        lengths = ((self.pairs.left > 0) | (self.pairs.right > 0)).sum(1)
        needed = (lengths + STEP - 1) // STEP * STEP
        for length in needed.unique().tolist():
            alike = (needed == length).nonzero().flatten()
            for some in alike[torch.randperm(len(alike))].split(PAIRS_A_BATCH):
                tokens = torch.cat([self.pairs.left[some], self.pairs.right[some]])
                yield tokens[:, : min(length, LENGTH)], self.pairs.alike[some]


def unlike(outputs: Tensor, alike: Tensor) -> Tensor:
    """How far the cosines of both halves are from what people say: a mean over numbers, as that of the teacher is."""
    left, right = outputs.chunk(2)
    return TOLD * F.mse_loss((left * right).sum(1), alike / MOST) / outputs.shape[1]


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The row's figures; `quick` learns from 200 pairs for an epoch, and is judged by 50."""
    tokenizer = Tokenizer.of_package()
    train, dev, test = (
        Pairs.of(data, split, tokenizer, most if quick else None)
        for split, most in (("train", 200), ("dev", 50), ("test", 50))
    )
    every = slice(None, None, max(1, len(dev.alike) // JUDGED_BY))
    judges = Pairs(dev.left[every], dev.right[every], dev.alike[every])
    task = Task(
        Lesson(train), lambda: list(train.left[:SEEN].split(32)), judges.score,
        kind="regression", loss=unlike, validate=test.score,
    )  # fmt: skip
    encoder = network()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        settings = Settings(cache=Path(folder), techniques=TRIED, epochs=1 if quick else EPOCHS)
        packed = pack(encoder, task, find_device("host"), LIMITS, settings)
        minutes = (time.monotonic() - started) / 60
    measured, before = packed.artifact.measurement, packed.baseline
    figures = {
        "score": measured.validated and measured.validated.value,
        "float_score": before.validated and before.validated.value,
        "dev_score": measured.score and measured.score.value,
        "float_dev_score": before.score and before.score.value,
        "flash_bytes": measured.flash_bytes.value,
        "latency_ratio": measured.latency_ratio and measured.latency_ratio.value,
        "minutes": minutes,
        "recipe": packed.artifact.recipe.to_toml(),
    }
    return {f"minilm_packed.{name}": value for name, value in figures.items() if value is not None}
