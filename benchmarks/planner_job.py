"""A network with its limits, packed from nothing, and the figures of what came out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pareto import Point

from haversack.device import Device
from haversack.limits import Budget
from haversack.measurement import Candidate, Measurement
from haversack.packing import Network, Packed, Settings, pack
from haversack.task import Task

TABLES = "HAVERSACK_CACHE"


@dataclass(frozen=True)
class Job:
    """What to pack, for what, within which limits."""

    network: Network
    task: Task
    device: Device | str
    limits: Budget
    settings: Settings = field(default_factory=Settings)

    def packed(self) -> Packed:
        """What comes out, no candidate being known. Layers that were timed before stay known."""
        with tempfile.TemporaryDirectory() as cache:
            settings = replace(self.settings, cache=Path(cache))
            return pack(self.network, self.task, self.device, self.limits, settings)


@dataclass(frozen=True)
class Outcome:
    """What was packed, and how long that took."""

    packed: Packed
    seconds: float

    @classmethod
    def of(cls, job: Job) -> Outcome:
        """The outcome of a job that begins with no timed layer; its report is printed."""
        with fresh_tables():
            started = time.monotonic()
            packed = job.packed()
            seconds = time.monotonic() - started
        print(packed.report)
        return cls(packed, seconds)

    def figures(self, row: str) -> dict[str, object]:
        """The figures that every such row has. The score is that of samples that decided nothing."""
        measured, found = self.packed.artifact.measurement, self.packed.found
        ratio, score = measured.latency_ratio, measured.validated or measured.score
        before = self.packed.baseline.validated or self.packed.baseline.score
        figures = {
            "score": score and score.value,
            "float_score": before and before.value,
            "flash_bytes": measured.flash_bytes.value,
            "latency_ratio": ratio and ratio.value,
            "latency_ratio_spread": ratio and [ratio.low, ratio.high],
            "minutes": self.seconds / 60,
            "built": len(found.verdicts),
            "refused": len(found.refusals),
            "tried": [_tried(verdict.candidate) for verdict in found.verdicts],
            "epochs": sum(step.epochs for step in self.packed.artifact.recipe.steps),
            "recipe": self.packed.artifact.recipe.to_toml(),
        }
        return {f"{row}.{name}": value for name, value in figures.items() if value is not None}


def _tried(candidate: Candidate) -> dict[str, float | None]:
    """What was measured of a candidate: its score on the samples that choose, and what it lost there in nats."""
    measured = candidate.measurement
    return {
        "score": measured.score and round(measured.score.value, 4),
        "nats": measured.fidelity and measured.fidelity.divergence and round(measured.fidelity.divergence, 5),
        "flash_bytes": measured.flash_bytes.value,
        "latency_ratio": measured.latency_ratio and round(measured.latency_ratio.value, 4),
        "epochs": sum(step.epochs for step in candidate.recipe.steps),
    }


@contextmanager
def fresh_tables() -> Iterator[None]:
    """Within this block no layer was timed yet; what is timed is forgotten at its end."""
    with tempfile.TemporaryDirectory() as folder, tables_in(Path(folder)):
        yield


@contextmanager
def tables_in(folder: Path) -> Iterator[None]:
    """Within this block timings of layers are kept in that folder."""
    before = os.environ.get(TABLES)
    os.environ[TABLES] = str(folder)
    try:
        yield
    finally:
        del os.environ[TABLES]
        if before is not None:
            os.environ[TABLES] = before


def merits(measured: Measurement) -> Point:
    """All that tells candidates apart, less being better: score, flash, the time that is limited, that on this host."""
    ratio, stated, score = measured.latency_ratio, measured.latency_ms, measured.score
    here = ratio.value if ratio else float("inf")
    there = here if measured.conditions.device == "host" or stated is None else stated.value
    return -(score.value if score else float("-inf")), measured.flash_bytes.value, there, here


def meeting(packed: Packed) -> list[Candidate]:
    """The candidates that were tried and are known to meet every limit, the answer left out."""
    before = packed.baseline.score and packed.baseline.score.value
    tried = [verdict.candidate for verdict in packed.found.verdicts]
    judged = [(each, each.measurement.judged(packed.limits, before)) for each in tried]
    return [
        each
        for each, judgements in judged
        if each.recipe != packed.artifact.recipe and all(judgement.state == "met" for judgement in judgements)
    ]
