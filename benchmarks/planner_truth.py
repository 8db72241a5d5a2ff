"""What plans of ResNet-20 truly give: each is built, written, run on images and timed once, and kept in a file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cifar10 import Images
from pareto import Point
from planner_space import Ground, possible

from haversack.errors import HaversackError
from haversack.graph.inference import lower
from haversack.plan.found import Trial
from haversack.plan.space import Chosen, Space
from haversack.recipe import Recipe
from haversack.runtimes import find_runtime, host

CHANCE = 0.1
"""The score that says nothing, with ten classes."""


@dataclass(frozen=True)
class Tried:
    """What a plan's file gave, and the seconds that it took to find out."""

    plan: Chosen
    score: float
    flash_bytes: float
    ratio: float
    seconds: float

    @property
    def point(self) -> Point:
        """What is to be small."""
        return -self.score, self.flash_bytes, self.ratio


Method = Generator[Chosen, Tried, None]
"""Asks for a plan, and is told what it gave."""


@dataclass(frozen=True)
class Kept:
    """A file with a line for each plan that was tried; one that was cut short is not read."""

    file: Path

    def read(self) -> dict[Chosen, Tried]:
        """What was tried, by plan."""
        lines = self.file.read_text("utf-8").splitlines(keepends=True) if self.file.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        tried = [Tried(**{**row, "plan": tuple(row["plan"])}) for row in rows]
        return {each.plan: each for each in tried}

    def add(self, tried: Tried) -> None:
        """Keeps one more, on a line of its own."""
        torn = self.file.exists() and not self.file.read_text("utf-8").endswith("\n")
        whole = "".join(self.file.read_text("utf-8").splitlines(keepends=True)[:-1]) if torn else None
        if whole is not None:
            self.file.write_text(whole, "utf-8")
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(tried)) + "\n")


class Truth:
    """Tries plans of one space, each once."""

    def __init__(self, ground: Ground, space: Space, images: Images, seconds: float, kept: Kept) -> None:
        self.ground, self.space, self._images, self._seconds, self._kept = ground, space, images, seconds, kept
        self._known = kept.read()
        self._whole = next(iter(ground.bench.artifact(Trial(Recipe())).files.values()))

    @property
    def reference(self) -> Point:
        """A network that says nothing, as large and as slow as the float original."""
        return -CHANCE, float(len(self._whole)), 1.0

    def of(self, plan: Chosen) -> Tried:
        """What the plan gives, as far as its choices go together. One that is refused nevertheless gives nothing."""
        plan = possible(self.space, plan)
        if plan not in self._known:
            started = time.monotonic()
            try:
                figures = self._measured(plan)
            except HaversackError:
                figures = CHANCE, *self.reference[1:]
            self._known[plan] = Tried(plan, *figures, time.monotonic() - started)
            self._kept.add(self._known[plan])
        return self._known[plan]

    def _measured(self, plan: Chosen) -> tuple[float, float, float]:
        bench = self.ground.bench
        model = self.space.recipe(plan, Recipe()).apply(bench.original, bench.task)
        file = find_runtime(bench.device).write(lower(model))
        timed = host.time_files([self._whole, file], threads=1, seconds=self._seconds)[1]
        return self._images.accuracy(host.load(file)), float(len(file)), timed.ratio.value


def contest(method: Method, truth: Callable[[Chosen], Tried], most: int, seconds: float) -> Sequence[Tried]:
    """What a method tries, up to so many plans or for so long; its own time counts as well as that of the plans."""
    spent, tried = 0.0, list[Tried]()
    started = time.monotonic()
    try:
        plan = next(method)
        while len(tried) < most:
            spent += time.monotonic() - started
            if spent > seconds:
                break
            tried.append(truth(plan))
            spent += tried[-1].seconds
            started = time.monotonic()
            plan = method.send(tried[-1])
    except StopIteration:
        pass
    return tried
