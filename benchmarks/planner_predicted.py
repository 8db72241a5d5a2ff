"""What plans are predicted to take and to lose, against files that were written and timed: 40 mixtures, two runtimes.

A mixture is a random plan: some sites of ResNet-20, a few or most of them, at random options. Three in four are in
int8, where bits differ too. Layers are timed by themselves; the line from their sum to the time of a whole file is
fitted on a few other mixtures. What is lost is predicted without any correction.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from fits import line, spearman
from planner_job import fresh_tables
from planner_space import Ground

from haversack.measurement import Measurement
from haversack.packing import Bench
from haversack.plan.found import Refusal, Trial
from haversack.plan.space import FORBIDDEN, Chosen, Space
from haversack.progress import track
from haversack.recipe import Recipe

RUNTIMES = ("onnx", "litert")
SHARES = {"int8": 0.75, "float32": 0.25}
CLOSE = 0.1
LEAST, MOST = 0.05, 0.6
"""The share of sites that a mixture changes."""
SEED = 0


@dataclass(frozen=True)
class Effort:
    """How many mixtures in each runtime, how many others fit each number format's line, how long each is timed."""

    mixtures: int = 40
    fitted: int = 4
    seconds: float = 3.0


QUICK = Effort(4, 2, 0.3)


@dataclass(frozen=True)
class Sample:
    """A plan's predictions beside what is true of its file."""

    pieces: float
    """The sum of its layers' times over that of the original's."""
    flash_bytes: float
    loss: float
    true: Measurement

    @property
    def ratio(self) -> float:
        """Its true latency over the float original's, timed in turns."""
        if self.true.latency_ratio is None:
            raise AssertionError("a host's files are timed")
        return self.true.latency_ratio.value

    @property
    def lost(self) -> float:
        """The true divergence of its outputs from the original's, in nats."""
        if self.true.fidelity is None or self.true.fidelity.divergence is None:
            raise AssertionError("a mixture is not the original")
        return self.true.fidelity.divergence


@dataclass
class Errors:
    """By what predictions are off, as shares of what is true; losses as pairs of predicted and true."""

    latency: list[float] = field(default_factory=list)
    flash: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)

    def add(self, fitted: list[Sample], others: list[Sample]) -> None:
        """Takes in samples of a number format, whose line is that of the fitted ones."""
        a, b = line([each.pieces for each in fitted], [each.ratio for each in fitted])
        self.latency += [(a + b * each.pieces) / each.ratio - 1 for each in others]
        self.flash += [each.flash_bytes / each.true.flash_bytes.value - 1 for each in (*fitted, *others)]
        self.losses += [(each.loss, each.lost) for each in others]

    @property
    def within(self) -> float:
        """The share of latencies that are predicted closely."""
        return sum(abs(each) <= CLOSE for each in self.latency) / len(self.latency)

    @property
    def spearman(self) -> float:
        """How well predicted losses rank the true ones."""
        predicted, true = zip(*self.losses, strict=True)
        return spearman(predicted, true)

    def figures(self, runtime: str) -> dict[str, object]:
        """All of it, for one runtime."""
        figures = {
            "within": self.within,
            "spearman": self.spearman,
            "latency_errors": [round(each, 4) for each in self.latency],
            "flash_errors": [round(each, 5) for each in self.flash],
            "losses": [[round(each, 5) for each in pair] for pair in self.losses],
        }
        return {f"predicted.{runtime}_{name}": value for name, value in figures.items()}


def run(data: Path, *, quick: bool) -> dict[str, object]:
    """The share of latencies within a tenth, the largest error of flash, and the worse rank correlation of losses."""
    effort, figures, errors = QUICK if quick else Effort(), dict[str, object](), list[Errors]()
    for runtime in RUNTIMES:
        started = time.monotonic()
        errors.append(_errors(data, runtime, effort))
        figures |= errors[-1].figures(runtime)
        figures[f"predicted.{runtime}_minutes"] = (time.monotonic() - started) / 60
    return {
        "predicted.within": sum(each.within for each in errors) / len(errors),
        "predicted.flash_error": max(abs(each) for one in errors for each in one.flash),
        "predicted.spearman": min(each.spearman for each in errors),
        "predicted.mixtures": effort.mixtures,
        **figures,
    }


def _errors(data: Path, runtime: str, effort: Effort) -> Errors:
    errors = Errors()
    with (
        tempfile.TemporaryDirectory() as cache,
        fresh_tables(),
        Ground.of(data, Path(cache), runtime, effort.seconds) as ground,
    ):
        for name, share in SHARES.items():
            count = effort.fitted + round(share * effort.mixtures)
            drawn = track(_samples(ground.spaces[name], ground.bench), f"{name} mixtures in {runtime}", count)
            samples = list(islice(drawn, count))
            errors.add(samples[: effort.fitted], samples[effort.fitted :])
    return errors


def _samples(space: Space, bench: Bench) -> Iterator[Sample]:
    """Random plans that the planner allows and that can be built, each predicted before it is measured."""
    draw = random.Random(f"{SEED} {space.name}")
    while True:
        plan = mixture(space, draw)
        loss = sum(space.losses_of(plan).values())
        if loss >= FORBIDDEN:
            continue
        space.pricing.refine(plan)
        figures = space.problem.figures(plan)
        answer = bench.answer(Trial(space.recipe(plan, Recipe())))
        if not isinstance(answer, Refusal):
            yield Sample(figures["latency_ratio"], figures["flash_bytes"], loss, answer.measurement)


def mixture(space: Space, draw: random.Random) -> Chosen:
    """A plan that changes a random share of the sites, each at random."""
    share = draw.uniform(LEAST, MOST)
    counts = [len(site.options) for site in space.sites]
    plan = tuple(draw.randrange(1, count) if count > 1 and draw.random() < share else 0 for count in counts)
    return space.said(plan) if any(plan) else mixture(space, draw)
